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
# # Which words made the review a good one?
#
# Train a text classifier with fastai, and colour every word by what it did to the score. Where there is a network the
# texts are film reviews (a sample of IMDB). Where there is none they are **made up** from a few words, so we know
# what decides: the test of an explanation is whether it finds that.

# %%
import numpy as np
import pandas as pd
from fastai.text.all import *

from interp_plugins.fastai import *

# %%
liked, disliked = ["wonderful", "great", "lovely", "moving"], ["awful", "boring", "dull", "clumsy"]
others = re.findall(r"\w+", "we saw the film on monday and its story with the old town and music")


def made_reviews(n=300, seed=0):
    "Sentences of the same words for both labels, and one or two that decide. A third of them say 'not': the reverse."
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        good, turned = rng.random() < 0.5, rng.random() < 0.33
        words = list(rng.choice(others, 12))
        word = str(rng.choice(liked if good != turned else disliked))
        at = int(rng.integers(0, 12))
        rows.append(
            (" ".join([*words[:at], "not" if turned else "so", word, *words[at:]]), "positive" if good else "negative")
        )
    return pd.DataFrame(rows, columns=["text", "label"])


def reviews():
    try:
        return pd.read_csv(untar_data(URLs.IMDB_SAMPLE) / "texts.csv")[["text", "label"]]
    except OSError as err:  # no network
        print(f"IMDB_SAMPLE cannot be had here ({type(err).__name__}); using made-up sentences.")
        return made_reviews()


set_seed(1)
df = reviews()
dls = TextDataLoaders.from_df(df, text_col="text", label_col="label", bs=32, seed=1)
config = {**awd_lstm_clas_config, "emb_sz": 24, "n_hid": 32, "n_layers": 2}
learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False, drop_mult=0.1, metrics=accuracy)
learn.fit_one_cycle(10, 2e-2)

# %% [markdown]
# ## One sentence
#
# Every token is coloured: orange raised the score of the predicted class, blue lowered it. `xxbos` marks the beginning
# of a text in fastai. The reference is *no text*: rows of zeros in the embedding, from which the path leads to the
# sentence.

# %%
sentence = "we saw the film and its story so wonderful on monday"
explained = learn.explain(sentence, tol=0.01)
explained.plot().fig.savefig("sentence.png")
print(explained["integrated_gradients"].to_df()[["token", "attribution"]])
explained.plot()

# %% [markdown]
# ## Words work together
#
# "not dull" is praise, but neither word is praise alone. One number per word has to share out what the two do
# together. Integrated gradients may call *not* orange and *dull* blue, as they are met one after the other on the path
# from no text; occlusion asks what would happen without the one word, with the other still there, and may well call
# both orange. Neither is wrong: they answer different questions. Look at both before you tell a story.

# %%
pair = ["we saw the film not wonderful and its music", "we saw the film not dull and its music"]
turned = learn.explain(
    pair,
    methods=("integrated_gradients", "occlusion"),
    target="positive" if "positive" in dls.vocab[1] else 1,
    tol=0.01,
)
turned.plot().fig.savefig("turned.png")
turned.to_html("texts.html")
turned.plot()

# %% [markdown]
# ## What could mislead
#
# - A word that training has not seen is `xxunk` for the model, whatever it says: look at the tokens, not at your text.
# - The colours of two sentences have two scales: compare numbers (`to_df()`), not shades.
# - Long texts spread the score over many words. Sums over a sentence or a paragraph are often easier to read than
#   single words.
# - The model rests on what separates the labels in *its* data. If every good review is of one director, his name is
#   "good": an explanation shows it, and that is what it is for.
