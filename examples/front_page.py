"""Pictures of README and of "Which method?", in true colour: `python examples/front_page.py docs/images [NAME ...]`.

The networks are those of `examples/pictures.py`, and one that was taught a watermark. All are trained here, but for
EfficientNet-Lite0 and MiniLM, which come trained. A minute of one core; nothing is downloaded.
"""

import sys
from functools import lru_cache
from pathlib import Path

import torch
from pictures import SENTENCES, accuracy, digit_body, digits, fit, housing_net, photographs, sentiment
from torch import nn

import interp_plugins as ip
from interp_plugins.core.spec import InputSpec

WIDTH = 4.4  # inches of one picture of the row in README


def figure(rows, columns, size):
    """A figure with axes (rows, columns), made without pyplot."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=size, layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False)


# -- three results -------------------------------------------------------------------------------------------------


def front_photo(quick):
    """A cup of coffee, and where the network saw it."""
    model, x, spec = photographs(["coffee"])
    exp = ip.explain(model, x, "gradcam", input_spec=spec)[0]
    fig, ((left, right),) = figure(1, 2, (WIDTH, 2.3))
    exp.show(ctx=left, kind="original", title="the photograph")
    exp.show(ctx=right, kind="masked", title=f'why "espresso" (p = {exp.probability[0]:.2f})?', colorbar_label=False)
    return fig


def front_table(quick):
    """One district's price."""
    model, x, spec = housing_net(quick)
    exp = ip.explain(model, x[1:2], "integrated_gradients", target=0, input_spec=spec)[0]
    fig, ((ax,),) = figure(1, 1, (WIDTH, 2.3))
    exp.show(ctx=ax, title="what makes this district's price?")
    return fig


PRAISE, BLAME = "The story is a delight.", "The plot is a mess."


def front_text(quick):
    """Two sentences."""
    model, tokenizer = sentiment(quick)
    fig, axes = figure(2, 1, (WIDTH, 2.3))
    for ax, sentence in zip(axes.flat, (PRAISE, BLAME)):
        exp = of_text(model, tokenizer, sentence, "integrated_gradients", quick, n_steps=4 if quick else 50)
        exp.show(ctx=ax, title=f'"good", p = {exp.probability[0]:.2f}', colorbar_label=False)
    return fig


def of_text(model, tokenizer, sentence, method, quick, **params):
    """The explanation of a sentence for the class "good"."""
    batch = tokenizer([sentence], return_tensors="pt")
    tokens = [tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())]
    found = ip.explain(
        model, batch["input_ids"], method, target="good", additional_forward_args=batch["attention_mask"],
        input_spec=InputSpec("text", vocab=("bad", "good")), **params,
    )  # fmt: skip
    return found.annotated(tokens=tokens)[0]


# -- a watermark ---------------------------------------------------------------------------------------------------


def stamped(x):
    """Digits with a small white label in the corner, as a scanner might leave it."""
    x = x.clone()
    x[:, :, 1:6, 1:6] = 1.0
    return x


@lru_cache
def stamped_net(quick):
    """A network for digits; in its training data all eights came from a scanner that leaves a label."""
    x, y = digits()
    seen = torch.where((y == 8)[:, None, None, None], stamped(x), x)
    model = nn.Sequential(digit_body(), nn.Linear(288, 10))
    fit(model, [seen[1000:]], y[1000:], steps=20 if quick else 500)
    return model, x[:1000], seen[:1000], y[:1000]


def watermark_numbers(quick):
    """What the network gets right: with the label on eights; eights without it; and how often the label makes an 8."""
    model, clean, seen, y = stamped_net(quick)
    others = stamped(clean[y != 8])
    with torch.no_grad():
        fooled = (model(others).argmax(1) == 8).float().mean().item()
    return accuracy(model, [seen], y), accuracy(model, [clean[y == 8]], y[y == 8]), fooled


def front_watermark(quick):
    """An eight as it was in training and its map; the same eight without the label; another digit with it."""
    model, clean, seen, y = stamped_net(quick)
    right, without, fooled = watermark_numbers(quick)
    print(
        f"watermark: {right:.1%} right; eights without it {without:.1%}; others that become an 8 with it {fooled:.1%}"
    )
    spec = InputSpec("image", vocab=tuple("0123456789"))
    with torch.no_grad():
        plain, marked = model(clean).argmax(1), model(stamped(clean)).argmax(1)
    eight = int(torch.nonzero((y == 8) & (plain != 8))[0])
    other = int(torch.nonzero((y != 8) & (marked == 8) & (plain == y))[0])
    x = torch.stack([seen[eight], seen[eight], clean[eight], clean[other], stamped(clean)[other]])
    windows = {"sliding_window_shapes": (1, 4, 4), "strides": (1, 2, 2)}
    exp = ip.explain(model, x, "occlusion", input_spec=spec, **windows)[0]
    with torch.no_grad():
        probability, digit = model(x).softmax(1).max(1)
    said = [f'"{d}" (p = {p:.2f})' for d, p in zip(digit.tolist(), probability.tolist())]
    titles = [f"a validation 8:\n{said[0]}", "what decides:\nthe label", f"the same, without it:\n{said[2]}",
              f"a {y[other]}:\n{said[3]}", f"a {y[other]} with the label:\n{said[4]}"]  # fmt: skip
    fig, (axes,) = figure(1, 5, (10, 2.25))
    for i, (ax, title) in enumerate(zip(axes, titles)):
        kind = "overlay" if i == 1 else "original"
        exp.show(ctx=ax, index=i, kind=kind, title=title, colorbar_label=False)
    return fig


# -- which method? -------------------------------------------------------------------------------------------------


def which_photo(quick):
    """One photograph by methods that answer different questions."""
    model, x, spec = photographs(["coffee"])
    draws = {"nt_samples": 2, "n_steps": 2} if quick else {"nt_samples": 10, "n_steps": 10}
    asked = {
        "Grad-CAM\nroughly where?": ("gradcam", {}),
        "Occlusion\nwhat if it were hidden?": (
            "occlusion",
            {"sliding_window_shapes": (3, 45, 45), "strides": (3, 22, 22)},
        ),
        "Integrated Gradients\nwhich pixels?": ("ig", {"n_steps": 4 if quick else 50}),
        "SmoothGrad of IG\nwhich, less noise?": ("noise_tunnel", {"nt_type": "smoothgrad", **draws}),
        "XRAI\nwhich regions?": ("xrai", {}),
    }
    asked = dict(list(asked.items())[: 1 if quick else None])
    fig, axes = figure(2, 3, (8.2, 5.6))
    axes = axes.ravel()
    for ax, (title, (method, params)) in zip(axes[1:], asked.items()):
        found = ip.explain(model, x, method, target="espresso", input_spec=spec, **params)[0]
        found.show(ctx=ax, kind="overlay", title=title, colorbar_label=False)
    found.show(ctx=axes[0], kind="original", title='"espresso",\nwhy?')
    return fig


def which_table(quick):
    """One district by three methods."""
    model, x, spec = housing_net(quick)
    titles = {
        "ig": "Integrated Gradients: from the average district",
        "feature_ablation": "Feature Ablation: one column made average",
        "shapley_values": "Shapley values: all orders of columns",
    }
    fig, (axes,) = figure(1, 3, (13, 2.8))
    for ax, (method, title) in zip(axes, titles.items()):
        ip.explain(model, x[1:2], method, target=0, input_spec=spec)[0].show(ctx=ax, title=title)
    return fig


def which_text(quick):
    """One sentence by three methods."""
    model, tokenizer = sentiment(quick)
    asked = {"ig": {"n_steps": 4 if quick else 50}, "feature_ablation": {}, "attention_rollout": {}}
    titles = ("Integrated Gradients: which pieces?", "Feature Ablation: what if one were missing?",
              "Attention rollout: what was looked at (whatever the class)?")  # fmt: skip
    fig, axes = figure(3, 1, (8, 3.2))
    for ax, title, (method, params) in zip(axes.flat, titles, asked.items()):
        of_text(model, tokenizer, SENTENCES[0], method, quick, **params).show(ctx=ax, title=title)
    return fig


PICTURES = {
    f.__name__.replace("_", "-"): f
    for f in (front_photo, front_table, front_text, front_watermark, which_photo, which_table, which_text)
}


def save(fig, path):
    """A picture in true colour: a JPEG where there are photographs, else a PNG."""
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    fig.savefig(out, format="png", dpi=110)
    picture = Image.open(out).convert("RGB")
    if path.suffix == ".jpg":
        picture.save(path, quality=88, optimize=True)
    else:
        picture.save(path, optimize=True)


def main(folder, names=(), quick=False):
    """Draw the pictures of these names (all if none) into the folder; `quick` trains hardly at all."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or PICTURES:
        torch.manual_seed(0)
        save(PICTURES[name](quick), Path(folder) / f"{name}.{'jpg' if 'photo' in name else 'png'}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
