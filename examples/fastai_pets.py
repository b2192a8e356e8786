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
# # Why does the model say "cat"?
#
# You have trained a model, and it says "cat". Did it look at the cat, or at the sofa? fastai's Captum tutorial asks
# this with three methods; here it is in a third of the lines, with the numbers that say how far to trust them.
#
# Where there is a network, the model is a ResNet-34 trained on the PETS data set; where there is none, an
# EfficientNet-Lite0 with ImageNet weights and photographs that come with scikit-image.

# %%
from pathlib import Path

from fastai.vision.all import *

from interp_plugins import RatherThan
from interp_plugins.demo import imagenet_learner, save_photographs
from interp_plugins.fastai import *


# %%
def is_cat(name):
    return name[0].isupper()  # in PETS the file names of cats begin with a capital letter


def pets_learner(images, arch=resnet34, **kwargs):
    "The tutorial's model: cat or dog, one epoch."
    files = get_image_files(images)
    dls = ImageDataLoaders.from_name_func(
        images, files, is_cat, valid_pct=0.2, seed=42, item_tfms=Resize(128), bs=16, num_workers=0
    )
    learn = vision_learner(dls, arch, metrics=error_rate, **kwargs)
    learn.fine_tune(1)
    return learn, files[0]


def model_and_picture():
    try:
        return pets_learner(untar_data(URLs.PETS) / "images")
    except OSError as err:  # no network: a trained model and real photographs from the package registry
        print(f"PETS cannot be had here ({type(err).__name__}); using EfficientNet-Lite0 on a photograph.")
        files = save_photographs(Path("photographs"))
        return imagenet_learner(files), files[0]


# %%
learn, picture = model_and_picture()
name, index, probabilities = learn.predict(picture)
print(f"{name}, p = {float(probabilities[index]):.2f}")

# %% [markdown]
# ## One line
#
# Whatever `learn.predict` takes, `learn.explain` takes too. Three methods answer the same question in three ways:
# which pixels made the model say this? Look first, the methods' stories follow below.

# %%
three = learn.explain(picture)
three.show()

# %% [markdown]
# ## Integrated Gradients: a sum that adds up
#
# The gradient is collected on the way from a black picture to ours. Orange pixels raised the score of the class, blue
# ones lowered it, and all of them together should make up the whole change of the score. The **completeness error**
# says how far off they are. Watch it fall with more steps, or name the error you accept and let the method choose.

# %%
for steps in (10, 50):
    exp = learn.explain(picture, methods="integrated_gradients", n_steps=steps)[0]
    print(f"{steps:3} steps: completeness error {exp.relative_delta.item():.1%}")

explained = learn.explain(picture, methods="integrated_gradients", tol=0.02)
explained.plot().fig.savefig("integrated_gradients.png")
explained.plot()
print(explained)

# %% [markdown]
# Does the black start matter? It does: black parts of the picture are no different from the baseline and so get
# nothing. Start from a blurred picture, and what counts is detail instead of brightness. Two honest answers to two
# questions; a map without its baseline is half a sentence.

# %%
blurred = learn.explain(picture, methods="integrated_gradients", baselines="blur")
blurred.show()

# %% [markdown]
# ## Noise tunnel: what stays when the picture trembles
#
# The same map for noisy copies, squared and averaged. Squares have no sign: strong pixels stay, noise goes. (It is the
# purple one: never negative, so it says *where*, not *for or against*.) `nt_samples=` and `stdevs=` set the noise.

# %%
print(dict(three["noise_tunnel"].params))
three["noise_tunnel"].plot().fig.savefig("noise_tunnel.png")
three["noise_tunnel"].plot()

# %% [markdown]
# ## Occlusion: cover it and see
#
# A window slides over the picture; where the score falls, it covered something that mattered. It is slow and coarse,
# but it needs no gradient and asks the model directly. When a gradient method and occlusion disagree, that is worth a
# second look. `kind="masked"` shows the picture itself where the map is strong; `sliding_window_shapes=(3, 15, 15)` and
# `strides=(3, 8, 8)` set the window.

# %%
print(dict(three["occlusion"].params))
three["occlusion"].plot(kind="masked").fig.savefig("occlusion.png")
three["occlusion"].plot(kind="masked")

# %% [markdown]
# ## Why this, and not that?
#
# The model's second choice is often the more interesting question. A target can be a name, an index, a list of them,
# or a contrast: the score of one class minus that of another. What they share (fur, ears) cancels; what tells them
# apart stays.

# %%
second = learn.dls.vocab[int(probabilities.argsort(descending=True)[1])]
why = learn.explain(picture, methods="gradcam", target=[None, second, RatherThan(None, second)])
why.show()

# %% [markdown]
# ## Take it with you
#
# `to_html` writes one page that can be mailed; `save` keeps the numbers; `to_df` is a table. Nothing of your Learner
# has changed: not its mode, not its recorder, not the random numbers of the next epoch.
#
# What could mislead:
#
# - Every map has its own colour scale: the same orange in two pictures is not the same attribution.
# - A map explains *this model's* score, not the world. A wrong prediction gets a map just as pretty as a right one.
# - One picture is an anecdote. `learn.show_explanations()` shows many from the validation set.

# %%
three.to_html("explanations.html")
three.to_df()
