"""Real packages inside fastai and Lightning: the callback explains what trains, and the training never notices."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback  # noqa: F401 - Learner.no_bar
from fastai.data.core import DataLoaders, Datasets
from fastai.data.load import DataLoader
from fastai.data.transforms import Categorize, IndexSplitter
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorBase, set_seed
from fasttransform import Transform
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins.core.errors import InterpWarning
from interp_plugins.fastai import AttributionCallback
from interp_plugins.lightning import AttributionCallback as LightningCallback
from interp_plugins.lightning import explain

pytestmark = pytest.mark.slow


def left_behind(model: nn.Module) -> list[Tensor]:
    """Weights, buffers and what the generators give next: all that a training leaves."""
    drawn = [torch.rand(1), torch.tensor(np.random.random()), torch.tensor(random.random())]  # noqa: NPY002
    return [*(v.detach().clone() for v in model.state_dict().values()), *drawn]


def unchanged(train: Callable[..., nn.Module], watch: Any) -> nn.Module:
    """The model of a training with a callback, which leaves the same bits as one without."""
    plain = left_behind(train())
    model = train(watch)
    found = left_behind(model)
    assert len(plain) == len(found) and all(map(torch.equal, plain, found))
    return model


# -- Hugging Face ----------------------------------------------------------------------------------------------------


def distilbert(adapters: bool = False) -> Any:
    """A small net with dropout, which draws random numbers in every step."""
    import transformers

    sizes: dict[str, Any] = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "num_labels": 2}
    config = transformers.DistilBertConfig(vocab_size=50, **sizes)
    model = transformers.DistilBertForSequenceClassification(config)
    if not adapters:
        return model
    import peft

    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_lin", "v_lin"], task_type="SEQ_CLS"))


def texts(n: int = 12) -> list[dict[str, Tensor]]:
    ids = torch.randint(5, 50, (n, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1::2, 5:] = 0
    return [{"input_ids": ids[i], "attention_mask": mask[i], "labels": ids[i, 2] % 2} for i in range(n)]


class Named(nn.Module):
    """A Learner's model gets one dict, and gives all that the net gives."""

    def __init__(self) -> None:
        super().__init__()
        self.hf = distilbert()

    def forward(self, x: dict[str, Tensor]) -> Any:
        return self.hf(**x)


class TakeLogits(Callback):
    """What a Learner's loss and metrics need of a net's output."""

    def after_pred(self) -> None:
        self.learn.pred = self.pred.logits


def fine_tuned(*cbs: Any, wrap: Callable[[], nn.Module] = Named) -> Any:
    rows = [({k: v for k, v in row.items() if k != "labels"}, row["labels"]) for row in texts()]
    set_seed(1)
    dls = DataLoaders(DataLoader(rows[:8], bs=4, shuffle=True), DataLoader(rows[8:], bs=4))
    learn = Learner(dls, wrap(), loss_func=CrossEntropyLossFlat(), cbs=[TakeLogits(), *cbs])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    return learn


def test_a_hugging_face_net_in_a_learner() -> None:
    watch = AttributionCallback(n=3, methods=["ig", "feature_ablation"], output="logits", log="none", on_error="raise")
    learns: list[Any] = []

    def train(*cbs: Any) -> nn.Module:
        learns.append(fine_tuned(*cbs))
        return learns[-1].model

    model = unchanged(train, watch)
    rows = torch.utils.data.default_collate(texts()[8:11])
    more = {"attention_mask": rows["attention_mask"]}
    for exp, method in zip(watch.last, ("ig", "feature_ablation")):
        assert exp.attribution.shape == (3, 8)
        options: dict[str, Any] = {"forward_kwargs": more, "output": "logits", "target": next(iter(exp.target or ()))}
        one = ip.explain(model.hf.eval(), rows["input_ids"], method, **options)[0]
        torch.testing.assert_close(exp.attribution[0], one.attribution[0], rtol=1e-3, atol=1e-6)


class Words(pl.LightningModule):
    """Adapters in a net that runs its blocks again for the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.model = distilbert(adapters=True)
        self.model.activation_checkpointing_enable()
        self.model.enable_input_require_grads()

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self(**batch).loss

    def validation_step(self, batch: Any, index: int) -> None:
        self(**batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


def trained(module: Callable[[], Any], loader: Callable[[], Any], callbacks: Any = ()) -> Any:
    pl.seed_everything(1, verbose=False)
    net = module()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", InterpWarning)
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=list(callbacks), enable_model_summary=False, **quiet
        )
        trainer.fit(net, loader(), loader())
    return net


def test_adapters_and_checkpoints_in_lightning() -> None:
    def loader() -> Any:
        return torch.utils.data.DataLoader(texts(8), batch_size=4)

    watch = LightningCallback(
        ["ig", "lrp"], n_samples=4, target="label", output_key="logits", loggers="none", on_error="raise"
    )
    module = unchanged(lambda *cbs: trained(Words, loader, cbs), watch)
    batch = next(iter(loader()))
    assert watch.last[0].target == tuple(batch["labels"].tolist()) and watch.last[0].attribution.shape == (4, 8)
    merged = module.model.merge_and_unload().eval()
    merged.activation_checkpointing_disable()
    options: dict[str, Any] = {"forward_kwargs": {"attention_mask": batch["attention_mask"]}, "output": "logits"}
    for exp in watch.last:
        name = {"integrated_gradients": "ig"}.get(exp.method, exp.method)
        right = ip.explain(merged, batch["input_ids"], name, target=batch["labels"], **options)[0]
        torch.testing.assert_close(exp.attribution, right.attribution, rtol=1e-3, atol=1e-6)


# -- torchvision -----------------------------------------------------------------------------------------------------


def pictures() -> Any:
    generator, rows = torch.Generator().manual_seed(0), []
    for side in (48, 56, 40, 48):
        image = torch.rand(3, side, side + 8, generator=generator) * 0.2
        image[:, 12:28, 12:28] = 1
        rows.append((image, {"boxes": torch.tensor([[12.0, 12, 28, 28]]), "labels": torch.tensor([1])}))
    return torch.utils.data.DataLoader(rows, 2, collate_fn=lambda batch: tuple(zip(*batch)))


class Detecting(pl.LightningModule):
    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision.models import detection

        sizes = {} if "ssd" in name else {"min_size": 48, "max_size": 64, "box_score_thresh": 0.0}
        self.model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3, **sizes)

    def forward(self, images: Any, targets: Any = None) -> Any:
        return self.model(images, targets)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return torch.stack(list(self(*batch).values())).sum()

    def validation_step(self, batch: Any, index: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-3)


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_detectors_of_torchvision_with_their_own_batches(name: str) -> None:
    watch = LightningCallback("saliency", n_samples=3, loggers="none", on_error="raise")
    module = unchanged(lambda *cbs: trained(lambda: Detecting(name), pictures, cbs), watch)
    exp = watch.last[0]
    assert len(exp) == 3 and all("box" in str(label) for label in exp.target_label or ())
    for i, (image, _) in enumerate(pictures().dataset[:3]):
        assert torch.equal(exp[i].input[0], image) and exp[i].attribution.any()
        leaf = image.clone().requires_grad_()
        found = module.model.eval()([leaf])[0]
        (slope,) = torch.autograd.grad(found["scores"].max(), leaf)
        torch.testing.assert_close(exp[i].attribution[0], slope.abs(), rtol=1e-2, atol=1e-6)
        one = explain(module, ((image,), ({},)), "saliency")[0]
        torch.testing.assert_close(exp[i].attribution, one.attribution, rtol=1e-2, atol=1e-6)


# -- series, as tsai has them ----------------------------------------------------------------------------------------


class Series(TensorBase):
    """Variables and steps of a series, as a tensor of fastai's."""


class ToSeries(Transform):
    """An array as a series."""

    def encodes(self, x: np.ndarray) -> Series:
        return Series(torch.tensor(x))


class Standardized(Transform):
    """Batches by a mean and a deviation of each variable."""

    order = 99

    def encodes(self, x: Series) -> Series:
        return (x - x.mean((0, 2), keepdim=True)) / x.std((0, 2), keepdim=True).clamp_min(1e-3)


class Inception(nn.Module):
    """Three widths of windows and a pool side by side, behind a bottleneck."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(channels, filters, 1, bias=False)
        self.convs = nn.ModuleList([nn.Conv1d(filters, filters, k, padding=k // 2, bias=False) for k in (9, 5, 3)])
        self.pool = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(channels, filters, 1, bias=False))
        self.norm, self.act = nn.BatchNorm1d(4 * filters), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        return self.act(self.norm(torch.cat([*(conv(narrow) for conv in self.convs), self.pool(x)], 1)))


class InceptionTime(nn.Module):
    """Two blocks with a way past them, the mean over time, and a classifier with dropout."""

    def __init__(self, channels: int, classes: int, filters: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Inception(channels, filters), Inception(4 * filters, filters))
        self.past = nn.Sequential(nn.Conv1d(channels, 4 * filters, 1, bias=False), nn.BatchNorm1d(4 * filters))
        self.act = nn.ReLU()
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(4 * filters, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.blocks(x) + self.past(x)))


def series(n: int = 48) -> np.ndarray:
    """Three variables of 32 steps; the class is whether the second rises in the middle."""
    x = np.random.default_rng(0).normal(0, 0.3, (n, 3, 32)).astype(np.float32)
    x[1::2, 1, 12:20] += 2
    return x


def forecast(*cbs: Any, epochs: int = 1) -> Any:
    set_seed(2)
    items = list(series())
    named = {row.tobytes(): "rise" if i % 2 else "flat" for i, row in enumerate(items)}
    of_rows = [[ToSeries()], [lambda row: named[row.tobytes()], Categorize()]]
    data = Datasets(items, of_rows, splits=IndexSplitter(range(40, 48))(items))
    dls = data.dataloaders(bs=8, after_batch=[Standardized()], device="cpu")
    learn = Learner(dls, InceptionTime(3, 2), loss_func=CrossEntropyLossFlat(), cbs=list(cbs))
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, 1e-2)
    return learn


def test_a_learner_of_series() -> None:
    methods = ["ig", "gradcam", "occlusion", "deep_lift", "guided_backprop"]
    watch = AttributionCallback(n=4, methods=methods, log="none", on_error="raise")
    unchanged(lambda *cbs: forecast(*cbs).model, watch)
    assert [tuple(exp.attribution.shape[:1]) for exp in watch.last] == [(4,)] * len(methods)


def test_where_a_series_rises() -> None:
    learn = forecast(epochs=6)
    exps = learn.explain(ds_idx=1, methods=["ig", "occlusion", "deep_lift", "gradcam"], target="rise", n_steps=100)
    for name in ("ig", "occlusion", "deep_lift"):
        exp = exps[name]
        assert exp.spec.kind == "series" and exp.attribution.shape == (8, 3, 32) and type(exp.attribution) is Tensor
        assert int(exp.attribution[1::2].abs().sum((0, 2)).argmax()) == 1
    for name in ("ig", "deep_lift"):
        assert exps[name].relative_delta is not None and exps[name].relative_delta.max() < 0.02
    along = exps["gradcam"].attribution[1::2].mean((0, 1))
    assert 10 <= int(torch.nn.functional.interpolate(along[None, None], 32, mode="linear").argmax()) < 22
