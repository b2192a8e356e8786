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
# fastai's tabular tutorial, one step further: train on the Adult census data, predict for a person, and ask which
# columns made the score. Categories and numbers are explained together, in one scale. Where there is a network the
# data come by `untar_data`; where there is none, the same census comes with the package `shapiq`.

# %%
from importlib import resources

import pandas as pd
from fastai.tabular.all import *

from interp_plugins.fastai import *

# %%
cat_names = ["workclass", "education", "marital-status", "occupation", "relationship", "race", "sex"]
cont_names = ["age", "education-num", "capital-gain", "hours-per-week"]


def adult():
    "The census, and the name of its label."
    try:
        return pd.read_csv(untar_data(URLs.ADULT_SAMPLE) / "adult.csv", skipinitialspace=True), "salary"
    except OSError as err:  # no network
        print(f"ADULT_SAMPLE cannot be had here ({type(err).__name__}); using the copy that comes with shapiq.")
        return pd.read_csv(str(resources.files("shapiq") / "datasets" / "data" / "adult_census.csv")), "class"


df, label = adult()
df = df.dropna(subset=[*cat_names, *cont_names]).head(6_000)
set_seed(42)
dls = TabularDataLoaders.from_df(
    df, procs=[Categorify, FillMissing, Normalize], cat_names=cat_names, cont_names=cont_names, y_names=label, bs=128
)
learn = tabular_learner(dls, layers=[60, 30], metrics=accuracy)
learn.fit_one_cycle(2, 1e-2)

# %% [markdown]
# ## One person
#
# `learn.explain` takes what `learn.predict` takes. Every bar is one column: orange raised the score of the class,
# blue lowered it, and the bars add up to the difference between this person's score and that of the **mean training
# row** (the average of all numbers, and of the embeddings of all categories). The completeness error says how well
# they add up.
#
# Feature ablation asks something else: what if this one column held its usual value? Numbers get the training mean,
# categories their most frequent value, so a person who *has* the most frequent value gets no bar there.

# %%
person = df[df[label].astype(str).str.startswith(">")].iloc[0]
explained = learn.explain(
    person,
    methods=("integrated_gradients", "feature_ablation"),
    target=">=50k" if label == "salary" else ">50K",
    tol=0.01,
)
explained.plot().fig.savefig("person.png")
print(explained)
explained.plot()

# %% [markdown]
# ## Compared with whom?
#
# An attribution is an answer to "why this score *rather than that one*?". The mean person is one choice. Another is a
# particular person: only columns in which the two differ can get a bar, and the bars say what the difference is made
# of. `baselines="zero"` is a third: no category at all, which is no person, but needs no data.

# %%
other = df[~df[label].astype(str).str.startswith(">")].iloc[0]
compared = learn.explain(
    person, methods="integrated_gradients", target=explained[0].target[0], baselines=other, tol=0.01
)
compared.plot().fig.savefig("compared.png")
same = [
    n
    for n, a, b in zip(
        compared[0].feature_names, compared[0].values[0], [other.get(n) for n in compared[0].feature_names]
    )
    if a == b
]
print("the same in both, so without a bar:", same)
compared.plot()

# %% [markdown]
# ## Many people
#
# The mean size of the bars over the validation set is a measure of how much the model rests on each column.

# %%
importance = learn.attribution_importance(df.tail(200), methods="integrated_gradients", n_steps=20)
print(importance.head(8))

# %% [markdown]
# ## What could mislead
#
# - The bars explain **this model**, not the world: a column may work because it stands for another one.
#   `relationship = Husband` and `marital-status` and `sex` say much the same; the model may lean on any of them, and a
#   second training may lean on another. A small bar at `sex` does not make the model fair.
# - `education` and `education-num` are one fact in two columns: they share its importance.
# - A bar is relative to the reference. Someone with the average age gets no bar for age, however much age matters.
# - `#na#` is what the model sees for a category it has not met in training; `learn.explain` warns where that happens.
