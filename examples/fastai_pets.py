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
# fastai's Captum tutorial, in a third of the lines: train or load a model, predict, and ask three methods which
# pixels decided. Where there is a network, the model is a ResNet-34 trained on the PETS data set; where there is none,
# an EfficientNet-Lite0 with ImageNet weights and photographs that come with scikit-image.

# %%
from pathlib import Path

from fastai.vision.all import *

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
print(learn.predict(picture)[0])

# %% [markdown]
# ## Integrated Gradients
#
# The gradient is collected on the way from a black picture to ours. Orange pixels raised the score of the class, blue
# ones lowered it. The **completeness error** says how far the map's sum is from the change of
# the score that it should explain: with more steps it falls.

# %%
explained = learn.explain(picture, methods="integrated_gradients", n_steps=200)
explained.plot().fig.savefig("integrated_gradients.png")
print(explained)

# %% [markdown]
# ## Noise tunnel
#
# The same map for ten noisy copies, squared and averaged. Squares have no sign: strong pixels stay, noise goes.

# %%
noise = learn.explain(picture, methods="noise_tunnel", nt_type="smoothgrad_sq", nt_samples=10)
noise.plot().fig.savefig("noise_tunnel.png")

# %% [markdown]
# ## Occlusion
#
# A grey window of 15 by 15 pixels slides over the picture in steps of 8; where the score falls, the window covered
# something that mattered. It is slow and coarse, but it needs no gradient and asks the model directly.

# %%
covered = learn.explain(picture, methods="occlusion", sliding_window_shapes=(3, 15, 15), strides=(3, 8, 8))
covered.plot().fig.savefig("occlusion.png")

# %% [markdown]
# ## All three side by side
#
# `learn.explain(picture)` runs the three with sensible settings; `to_html` writes a page that can be mailed. What could
# mislead: every map has its own scale, a map explains *this model's* score and not the world, and black parts
# of the picture get nothing from Integrated Gradients because the baseline is black (`baselines="blur"` is another).

# %%
learn.explain(picture).to_html("explanations.html")
