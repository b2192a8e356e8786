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
# # Why these pixels? Explaining a segmentation
#
# A classifier gives one answer per picture, a segmentation one per pixel. So what is there to explain? Usually a
# *region*: "why are these pixels a car?" `learn.explain` takes the pixels where the model sees a class, adds up the
# scores of that class there, and asks which pixels of the input raised or lowered this sum.
#
# Where there is a network, this notebook uses CAMVID, street scenes with 32 classes. Where there is none, it paints a
# small riddle: yellow discs that are called **sun** in the sky and **ball** on the grass. The discs look the same!
# So whatever tells them apart has to be found outside of them. Let us see whether the network does so.

# %%
import numpy as np
from fastai.vision.all import *

from interp_plugins import RatherThan
from interp_plugins.fastai import *

set_seed(0, reproducible=True)
SIZE = 48


# %%
def paint(folder, n=96):
    "Sky above, grass below, and a yellow disc in one of them, or one in each; the masks name them sun and ball."
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for i in range(n):
        above = rows[..., None] < SIZE // 2
        picture = np.where(above, (90, 150, 230), (60, 140, 50)) + rng.normal(0, 12, (SIZE, SIZE, 3))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for code in ([1], [2], [1, 2])[i % 3]:
            y = rng.integers(7, 17) if code == 1 else rng.integers(31, 41)
            disc = (rows - y) ** 2 + (columns - rng.integers(7, 41)) ** 2 <= 25
            picture[disc] = (250, 220, 40)
            mask[disc] = code
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{i:03}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{i:03}_P.png")
    return folder, ["background", "sun", "ball"]


def street_learner():
    "fastai's own segmentation tutorial."
    path = untar_data(URLs.CAMVID_TINY)
    codes = np.loadtxt(path / "codes.txt", dtype=str)
    files = get_image_files(path / "images")
    dls = SegmentationDataLoaders.from_label_func(
        path, files, lambda f: path / "labels" / f"{f.stem}_P{f.suffix}", codes=codes, bs=8, num_workers=0
    )
    learn = unet_learner(dls, resnet34)
    learn.fine_tune(8)
    return learn


def riddle_learner(path, codes):
    "A small U-Net, trained on the painted scenes in a few seconds."
    dls = SegmentationDataLoaders.from_label_func(
        path,
        get_image_files(path / "images").sorted(),
        lambda f: path / "labels" / f"{f.stem}_P.png",
        codes=codes,
        bs=8,
        num_workers=0,
        batch_tfms=Normalize.from_stats(*imagenet_stats),
        seed=0,
    )
    encoder = nn.Sequential(
        ConvLayer(3, 8), ConvLayer(8, 16, stride=2), ConvLayer(16, 24, stride=2), ConvLayer(24, 24, ks=5)
    )
    # Most pixels are background; with these weights the few pixels of a disc count as much.
    loss = CrossEntropyLossFlat(axis=1, weight=tensor([0.1, 1.0, 1.0]))
    learn = Learner(dls, DynamicUnet(encoder, len(codes), (SIZE, SIZE)), loss_func=loss)
    learn.fit_one_cycle(14, 1e-2)
    return learn


try:
    learn = street_learner()
except OSError as err:
    print(f"CAMVID cannot be had here ({type(err).__name__}); painting suns and balls instead.")
    learn = riddle_learner(*paint(Path("scenes")))

# %%
learn.show_results(max_n=4)

# %% [markdown]
# ## The default: the largest thing the model sees
#
# Without a target, each picture's largest predicted class that is not the background is explained. The outline is the
# region whose score is asked about. Look at where the colours are: *orange* pixels raised the score of the region,
# *blue* ones lowered it, and nothing says that they have to lie inside.

# %%
rows = range(3)
exps = learn.explain(ds_idx=1, idxs=rows, methods=("ig", "occlusion"))
exps.show()

# %% [markdown]
# The region is **frozen**: it is found once, on the clean picture. If every noisy or half-black copy of the picture
# brought its own region, the sum would jump whenever a pixel changes sides, and the map would no longer add up to the
# score. That it does is what the *completeness error* says; `tol=` sets how small it should get.

# %%
precise = learn.explain(ds_idx=1, idxs=rows, methods="ig", tol=0.01)[0]
print("completeness error:", [f"{e:.2%}" for e in precise.relative_delta])

# %% [markdown]
# ## A class by its name
#
# Any code can be asked for, as long as the model predicts it somewhere (otherwise there is no region, and the error
# lists what it does predict). A list gives one explanation for each.

# %%
vocab = learn.explain(ds_idx=1, idxs=0, methods="saliency")[0].spec.vocab
print("classes:", *vocab)
everywhere = learn.explain(ds_idx=1, methods="saliency")[0]
names = [str(name) for name in dict.fromkeys(everywhere.target_label)]
print("largest in the validation pictures:", *names)

# %% [markdown]
# ## Why this class and not that one?
#
# "Why ball?" has a dull answer: because it is yellow and round. The riddle is "why ball *rather than* sun?", and that
# is a `RatherThan`: the score of the one class minus the score of the other, in the same region.


# %%
def share_outside(exp):
    "Share of the map's total strength that lies outside the region."
    strength = exp.attributions.sum(1).abs()
    return float((strength * ~exp.region).sum() / strength.sum())


picture, this = learn.dls.valid_ds.items[0], everywhere.target_label[0]
other = next(str(n) for n in vocab[::-1] if str(n) != this)
versus = learn.explain(picture, methods="ig", target=[this, RatherThan(this, other)], tol=0.02)
versus.show()
print(f"the outline holds {versus[0].region.float().mean():.1%} of the picture")
for exp in versus:
    print(f"{exp.target_label[0]:24} outside the outline: {share_outside(exp):.0%}")

# %% [markdown]
# Still the disc! It holds a few percent of the painted picture and about half of the map, although the disc itself
# cannot know. Is the method wrong? No, but look at what it was asked: Integrated Gradients compares with a **black**
# picture. There is no disc in the dark, and so much of the change comes from the disc.
#
# ## The baseline is half of the question
#
# A better one: the same discs in a world turned upside down, with the grass above and the sky below. `baselines=` takes
# a picture just as `explain` does. Now the disc is the same on both sides and gets nothing, and if the map adds
# up all the same, the surroundings account for everything.


# %%
def turned_world(file):
    "The same discs, but with the grass above and the sky below."
    mask = np.array(Image.open(file.parent.parent / "labels" / f"{file.stem}_P.png"))
    above = np.mgrid[:SIZE, :SIZE][0][..., None] < SIZE // 2
    world = np.where(above, (60, 140, 50), (90, 150, 230))
    world[mask > 0] = np.array(Image.open(file))[mask > 0]
    return PILImage.create(world.astype(np.uint8))


baseline = turned_world(picture) if "sun" in vocab else "blur"  # streets cannot be turned so easily
turned = learn.explain(picture, methods="ig", target=RatherThan(this, other), baselines=baseline, tol=0.02)[0]
turned.show(kind="side")
print(f"here {turned.score.item():.0f}, with the baseline {turned.baseline_score.item():.0f}")
print(f"turned: {turned.target_label[0]}, outside the outline: {share_outside(turned):.0%}")

# %% [markdown]
# In the turned world the difference of the scores changes its sign: the network calls the very same disc by the other
# name, and the map shows which part of the surroundings it reads. That is right here, and it would be wrong on a
# photograph of a ball in the air: the sort of thing that a map can show and an accuracy cannot.
#
# ## What could mislead
#
# - The region is where the **model** sees the class, not where it is. `target="label"` asks about the true mask.
# - Scores are added up over the region, so large regions have large scores; every map has its own colour scale.
# - A map answers the question that its baseline asks. Say which one it was when you show it.
# - Three pictures are three pictures. Before you believe a pattern, count it over many, as we did with the shares.

# %%
learn.explain(ds_idx=1, idxs=rows, methods="saliency").to_html("segmentation.html")
