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
# # Why does the model think that someone earns more than 50,000?
#
# A table with categories and numbers, a LightningModule with embeddings, and three questions: why this person, why
# rather than that one, and which columns matter to everybody? The data are the Adult census, as it comes with the
# package shapiq; nothing is downloaded.

# %%
import logging
import warnings
from importlib import resources

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import InputSpec
from interp_plugins.lightning import explain

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", ".*does not have many workers.*")
pl.seed_everything(0, verbose=False)
torch.set_num_threads(1)

# %% [markdown]
# ## Data
#
# Seven columns of categories become integers, four of numbers are standardised. The DataModule keeps what is needed to
# read the rows later: names of categories, mean and standard deviation.

# %%
CATEGORIES = ["workclass", "education", "marital-status", "occupation", "relationship", "race", "sex"]
NUMBERS = ["age", "education-num", "capital-gain", "hours-per-week"]


class Adult(pl.LightningDataModule):
    def setup(self, stage=None):
        df = pd.read_csv(str(resources.files("shapiq") / "datasets" / "data" / "adult_census.csv"))
        self.df = df = df.dropna(subset=[*CATEGORIES, *NUMBERS]).sample(8000, random_state=0).reset_index(drop=True)
        codes = {c: df[c].astype("category").cat for c in CATEGORIES}
        self.vocab = {c: list(codes[c].categories) for c in CATEGORIES}
        ids = torch.tensor(np.stack([codes[c].codes for c in CATEGORIES], 1).astype("int64"))
        raw = torch.tensor(df[NUMBERS].to_numpy("float32"))
        self.mean, self.std = raw[2000:].mean(0), raw[2000:].std(0)
        y = torch.tensor(df["class"].str.strip().str.startswith(">").to_numpy("int64"))
        columns = (ids, (raw - self.mean) / self.std, y)
        self.valid = TensorDataset(*(c[:2000] for c in columns))
        self.train = TensorDataset(*(c[2000:] for c in columns))

    def train_dataloader(self):
        return DataLoader(self.train, 128, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.valid, 500)


# %% [markdown]
# ## Model


# %%
class Income(pl.LightningModule):
    def __init__(self, sizes):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, 6) for n in sizes)
        self.net = nn.Sequential(nn.Linear(6 * len(sizes) + len(NUMBERS), 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, ids, numbers):
        looked_up = [embedding(ids[:, i]) for i, embedding in enumerate(self.embeddings)]
        return self.net(torch.cat([*looked_up, numbers], 1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(*batch[:2]), batch[2])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(*batch[:2]).argmax(1) == batch[2]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 3e-3)


data = Adult()
data.setup()
model = Income([len(v) for v in data.vocab.values()])
trainer = pl.Trainer(
    max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
trainer.fit(model, data)
print(f"accuracy on 2,000 people: {trainer.callback_metrics['val_acc']:.1%}")

# %% [markdown]
# ## One person
#
# The module takes two tensors, so a tuple is explained, and the result holds a map for each: one number per column.
# `InputSpec` says what the columns are called. Categories are explained at their embeddings.
#
# Integrated Gradients needs a **baseline**, the person that this one is compared with. "Nothing" is no person; the most
# usual row is: the most frequent category of each column, the average number.

# %%
ids, numbers, y = data.valid.tensors
own_units = (tuple(data.mean.tolist()), tuple(data.std.tolist()))  # so that pictures show years, not deviations
spec = InputSpec(
    "tabular", feature_names=tuple(CATEGORIES), name="categories", vocab=("<= 50,000", "> 50,000"),
    others=(InputSpec("tabular", *own_units, feature_names=tuple(NUMBERS), name="numbers"),),
)  # fmt: skip
usual = (data.train.tensors[0].mode(0).values[None], torch.zeros(1, len(NUMBERS)))
print("the usual person:", {c: data.vocab[c][i] for c, i in zip(CATEGORIES, usual[0][0].tolist())})

with torch.no_grad():
    probability = model.eval()(ids, numbers).softmax(1)[:, 1]
rich = int(torch.nonzero((y == 1) & (probability > 0.9))[0])
person = (ids[rich : rich + 1], numbers[rich : rich + 1])
print(data.df.loc[rich, [*CATEGORIES, *NUMBERS]].to_dict())

# %%
exps = explain(
    model, person, ("integrated_gradients", "feature_ablation"), input_fn=lambda batch: batch, target=1,
    baselines=usual, input_spec=spec,
)  # fmt: skip
words = [tuple(data.vocab[c][i] for c, i in zip(CATEGORIES, person[0][0].tolist()))]
exps.annotated(values=words).plot()


# %% [markdown]
# Two methods, two questions. Integrated Gradients shares out the whole difference of the two scores: its bars add up.
# Feature Ablation changes one column back to the usual value and leaves the others: its bars need not add up, but each
# is an experiment that one can repeat. As a table:


# %%
def table(exps, index=0):
    found = {}
    for exp in exps:
        maps = [part[index].tolist() for part in exp.attributions]
        found[exp.method] = pd.Series([*maps[0], *maps[1]], [*CATEGORIES, *NUMBERS])
    return pd.DataFrame(found).sort_values("integrated_gradients", key=abs, ascending=False)


both = table(exps)
print(both.round(2))
print("sum of the bars:", round(float(both["integrated_gradients"].sum()), 3))
difference = (model(*person) - model(*usual))[0, 1].item()
print("difference of the scores:", round(difference, 3))

# %% [markdown]
# ## Compared with whom?
#
# Columns in which two people agree cannot get a bar. Compared with a particular other person, the bars say what the
# difference between *these two* is made of.

# %%
poor = int(torch.nonzero((y == 0) & (probability < 0.05))[0])
other = (ids[poor : poor + 1], numbers[poor : poor + 1])
compared = explain(
    model, person, "integrated_gradients", input_fn=lambda batch: batch, target=1, baselines=other, input_spec=spec,
    n_steps=100,
)  # fmt: skip
pairs = data.df.loc[[rich, poor], [*CATEGORIES, *NUMBERS]].T.set_axis(["this person", "the other"], axis=1)
pairs["bar"] = table(compared)["integrated_gradients"].round(2)
print(pairs)
compared.annotated(values=words).plot()

# %% [markdown]
# ## Everybody
#
# The mean size of the bars over 300 people says how much the model rests on each column.

# %%
many = (ids[:300], numbers[:300])
all_of_them = explain(
    model, many, "integrated_gradients", input_fn=lambda batch: batch, target=1, baselines=usual, input_spec=spec,
)  # fmt: skip
sizes = torch.cat([part.abs().mean(0) for part in all_of_them[0].attributions])
importance = pd.Series(sizes.tolist(), [*CATEGORIES, *NUMBERS]).sort_values(ascending=False)
print(importance.round(3))
print(f"completeness error, median of the 300: {all_of_them[0].relative_delta.abs().median():.2%}")

# %% [markdown]
# ## A second opinion
#
# Is the ranking the method's or the model's? Shuffle a column and see how much accuracy is lost. It asks for no
# gradient and no baseline. Where the two disagree, look for a column that stands in for another: the model uses
# `relationship`, and does as well without it, because `marital-status` and `sex` say the same.


# %%
@torch.no_grad()
def loss_of_accuracy(column, repeats=5):
    generator, lost = torch.Generator().manual_seed(0), []
    for _ in range(repeats):
        parts = [ids.clone(), numbers.clone()]
        part, i = (0, column) if column < len(CATEGORIES) else (1, column - len(CATEGORIES))
        parts[part][:, i] = parts[part][torch.randperm(len(y), generator=generator), i]
        lost.append((model(ids, numbers).argmax(1) == y).float().mean() - (model(*parts).argmax(1) == y).float().mean())
    return float(torch.stack(lost).mean())


columns = [*CATEGORIES, *NUMBERS]
shuffled = pd.Series({c: loss_of_accuracy(i) for i, c in enumerate(columns)})
both = pd.DataFrame({"mean size of bars": importance, "accuracy lost": shuffled})
print(both.sort_values("accuracy lost", ascending=False).round(3))
print("rank correlation:", round(float(importance.rank().corr(shuffled.rank())), 2))

# %% [markdown]
# ## What could mislead
#
# - The bars explain **this model**, not the world. `relationship = Husband`, `marital-status` and `sex` say much the
#   same: the model may lean on any of them, and a second training on another. A small bar at `sex` does not make it
#   fair.
# - `education` and `education-num` are one fact in two columns and share its importance.
# - A bar is relative to the baseline: someone of the usual age gets none for age, however much age matters.
# - Shuffling a column alone makes people that do not exist, where columns depend on each other.
