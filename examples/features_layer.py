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
# # What does a layer look for?
#
# EfficientNet-Lite0 was trained on ImageNet's photographs. What do channels in its middle respond to? Two answers are
# put side by side: pictures made for a channel, by climbing from noise, and the parts of real photographs that excite
# it most. The photographs come with scikit-image and scikit-learn; nothing is downloaded.
#
# The calls are those for any PyTorch model. A fastai Learner has `learn.visualize("blocks.4", channel=7)`,
# `learn.dataset_examples`, `learn.accentuate` and others, which know size, normalisation and data; for a
# LightningModule they are in `interp_plugins.lightning`.

# %%
import numpy as np
import torch
from skimage import data as photographs
from sklearn.datasets import load_sample_images
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import interp_plugins as ip
from interp_plugins.demo.network import imagenet_classes, lite0
from interp_plugins.optim import accentuate
from interp_plugins.optim import objectives as o

torch.set_num_threads(1)
model = lite0()

# %% [markdown]
# ## Data
#
# Square parts of a dozen photographs, 96 pixels wide. The network wants values from -1 to 1, which the `InputSpec`
# says, so that pictures are drawn as they are.

# %%
NAMES = ["astronaut", "camera", "chelsea", "coffee", "rocket", "brick", "grass", "gravel", "horse", "retina"]
pictures = {name: np.asarray(getattr(photographs, name)()) for name in NAMES}
pictures |= dict(zip(["temple", "flower"], load_sample_images().images))
draw = np.random.default_rng(0)
parts, labels = [], []
for number, pixels in enumerate(pictures.values()):
    pixels = pixels.astype(np.float32) / (1 if pixels.dtype == bool else 255)
    pixels = np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    for _ in range(25):
        side = int(draw.uniform(0.25, 1) * min(pixels.shape[:2]))
        top, left = (draw.integers(0, s - side + 1) for s in pixels.shape[:2])
        part = torch.tensor(pixels[top : top + side, left : left + side]).permute(2, 0, 1)[None]
        parts.append(F.interpolate(part, size=(96, 96), mode="bilinear", antialias=True))
        labels.append(number)
raw = torch.cat(parts).clamp(0, 1)
spec = ip.InputSpec("image", mean=(0.5,) * 3, std=(0.5,) * 3, vocab=tuple(pictures))
data = TensorDataset(spec.normalise(raw), torch.tensor(labels))
len(data)

# %% [markdown]
# ## Pictures beside examples
#
# On the left the picture, in the middle the parts of photographs that excite the channel most, on the right the
# values of all parts (blue) and the picture's. A picture alone misleads, so each comes with scores: `ratio`, how many
# times the most active part it reaches; `robust`, what is left of that when it is moved a little; `spectrum`, how far
# its fine structure is from that of photographs; `path`, whether it runs through the layers before as the real parts
# do.

# %%
found = ip.visualize(
    model, "blocks.4.2", channel=[7, 20], data=data, input_spec=spec, steps=64, progress=False
)  # fmt: skip
found.show()

# %%
found.to_df().round(2)

# %% [markdown]
# Read both. The picture of channel 7 is a weave of dots with wide arcs across it; in these photographs it is the
# round edge of a cat's eye, and of a silhouette, that excites it. That of channel 20 is a thicket of short edges; the
# data show people, poles and roofs against the sky. A `ratio` of several times says that no part of the data excites
# the channel like the picture does, and a `path` far below 1 that the picture gets there another way: what it shows is
# what the channel could respond to, not all that it responds to in photographs.
#
# ## All channels of a layer
#
# One pass over the data serves them all. `to_html` makes a page of it that opens without a network, sortable by
# value.

# %%
everything = ip.dataset_examples(model, data, "blocks.4.2", k=6, input_spec=spec, progress=False)
everything.to_html("layer.html")
everything.rows([0, 33, 50]).show()

# %% [markdown]
# ## A class, and an objective of one's own
#
# `target=` climbs a class's logit. Objectives can be added and weighed; here a picture for channel 7 that channel 20
# is not to like.

# %%
names = imagenet_classes()
classes = ip.InputSpec("image", mean=(0.5,) * 3, std=(0.5,) * 3, vocab=tuple(names))
asked = [o.logit(names.index("espresso"), "espresso"), o.channel("blocks.4.2", 7) - o.channel("blocks.4.2", 20)]
like = data[0][0][None]
ip.visualize(model, objective=asked, like=like, input_spec=classes, steps=64, progress=False).show()

# %% [markdown]
# The figure says that it comes without data. `accentuate` begins at a photograph and stays near it: what does the
# network see in this picture that would make it more of an espresso?

# %%
cup = data.tensors[0][data.tensors[1] == list(pictures).index("coffee")][:1]
made = accentuate(
    model, cup, target="espresso", input_spec=classes, steps=48, progress=False
)  # fmt: skip
made.show()

# %% [markdown]
# ## What it can say, and what not
#
# A picture shows what excites a unit most, not all that it does; the examples are those of these data alone. Where
# both tell one story, believe it a little more; where they do not, the data are nearer to what the network does.
