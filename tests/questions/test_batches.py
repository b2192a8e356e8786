"""Batches as frameworks hand them: dicts in fastai, `forward(**inputs)` and detectors' lists in Lightning, views."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401 - Learner.no_bar
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins.api.named_inputs import explained_names
from interp_plugins.core.errors import InputError, InterpWarning, ModelError
from interp_plugins.fastai import AttributionCallback
from interp_plugins.lightning import AttributionCallback as LightningCallback
from interp_plugins.lightning import explain

transformers = pytest.importorskip("transformers")


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=50, num_labels=2, **sizes)
    return transformers.BertForSequenceClassification(config)


class TakesADict(nn.Module):
    """What a fastai Learner calls with one dict."""

    def __init__(self) -> None:
        super().__init__()
        self.hf = bert()

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.hf(**x).logits


def texts(n: int = 12) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Ids of eight places, of which the last ones are padding in every other text."""
    ids = torch.randint(5, 50, (n, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1::2, 5:] = 0
    kinds = torch.zeros_like(ids)
    return [({"attention_mask": mask[i], "input_ids": ids[i], "token_type_ids": kinds[i]}, ids[i, 2] % 2)
            for i in range(n)]  # fmt: skip


def learner(of_torch: bool = False, cbs: Any = ()) -> Any:
    kind = torch.utils.data.DataLoader if of_torch else DataLoader
    data = texts()
    dls = DataLoaders(kind(data[:8], batch_size=4), kind(data[8:], batch_size=4))
    torch.manual_seed(1)
    learn = Learner(dls, TakesADict(), loss_func=CrossEntropyLossFlat(), cbs=list(cbs))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
    return learn


@pytest.fixture(scope="module", params=[False, True], ids=["fastai's loader", "torch's loader"])
def learn(request: Any) -> Any:
    return learner(request.param)


def by_hand(learn: Any, batch: Any) -> Tensor:
    ids, more = batch["input_ids"], {k: v for k, v in batch.items() if k != "input_ids"}
    return ip.explain(learn.model.hf, ids, "ig", target=1, forward_kwargs=more, output="logits", n_steps=6)[
        0
    ].attribution


def test_a_dict_of_ids_and_masks_in_a_learner(learn: Any) -> None:
    batch = next(iter(learn.dls.valid))
    right = by_hand(learn, batch[0])
    options: dict[str, Any] = {"methods": "ig", "target": 1, "n_steps": 6}
    ways = [{"ds_idx": 1}, {"xb": batch[0]}, {"xb": (batch[0],)}, {"dl": [batch]}, {"dl": learn.dls.valid}]
    for way in ways:
        exp = learn.explain(**way, **options)[0]
        torch.testing.assert_close(exp.attribution, right)
        assert exp.spec.kind == "text" and torch.equal(exp.input, batch[0]["input_ids"])
    some = learn.explain(ds_idx=1, idxs=[3, 1], **options)[0].attribution
    torch.testing.assert_close(some, right[[3, 1]])
    assert not right[1, 5:].any() and right[0, 5:].abs().min() > 0  # padding counts nothing: the mask went along


def test_truth_perturbation_and_layers_of_a_dict(learn: Any) -> None:
    exps = learn.explain(ds_idx=1, methods=["feature_ablation", "saliency"], target="label")
    assert exps[0].target == tuple(int(y) for _, y in texts()[8:]) and exps[0].attribution.shape == (4, 8)
    exp = learn.explain(ds_idx=1, methods="input_x_gradient", layer=learn.model.hf.bert.embeddings, target=0)[0]
    assert exp.attribution.shape == (4, 8, 16)
    learn.show_explanations(max_n=2, methods="saliency")


def test_the_core_takes_the_same_dict(learn: Any) -> None:
    batch = dict(next(iter(learn.dls.valid))[0])
    exp = ip.explain(learn.model, batch, "ig", target=1, n_steps=6)[0]
    torch.testing.assert_close(exp.by_input["input_ids"], by_hand(learn, batch))
    assert list(exp.by_input) == ["input_ids"]
    named = ip.explain(learn.model.hf, batch, "ig", target=1, n_steps=6, output="logits")[0]
    torch.testing.assert_close(named.by_input["input_ids"], exp.by_input["input_ids"])


def test_training_with_the_callback_is_bit_identical() -> None:
    plain = learner()
    watch = AttributionCallback(n=3, methods="ig", log="none", on_error="raise")
    watched = learner(cbs=[watch])
    assert same_weights(plain.model, watched.model)
    assert watch.last[0].attribution.shape == (3, 8)


def test_what_of_a_dict_is_explained() -> None:
    ids, mask, picture = torch.zeros(2, 8).long(), torch.ones(2, 8).long(), torch.rand(2, 3, 8, 8)
    assert explained_names({"attention_mask": mask, "input_ids": ids}) == ["input_ids"]
    assert explained_names({"input_ids": ids, "attention_mask": mask, "pixel_values": picture}) == ["pixel_values"]
    assert explained_names({"table": torch.rand(2, 4), "image": picture, "y": torch.rand(2, 1)}) == ["table", "image"]
    assert explained_names({"x": torch.rand(2, 4), "padding_mask": torch.ones(2, 4)}) == ["x"]
    assert explained_names({"attention_mask": mask}) == ["attention_mask"]


def test_pictures_and_tables_in_one_dict_are_both_explained() -> None:
    picture, table = torch.rand(3, 3, 6, 6), torch.rand(3, 2)
    xb = {"rows_mask": torch.tensor([1.0, 0.0, 1.0]), "table": table, "picture": picture}

    class Flat(nn.Module):
        def forward(self, b: dict[str, Any]) -> Tensor:
            return b["picture"].mean((1, 2, 3))[:, None] * b["table"] * b["rows_mask"][:, None]

    learn = Learner(DataLoaders([]), Flat(), loss_func=CrossEntropyLossFlat())
    exp = learn.explain(xb=xb, methods="input_x_gradient", target=0)[0]
    assert [tuple(a.shape) for a in exp.attributions] == [(3, 2), (3, 3, 6, 6)]
    assert exp.attributions[0][0, 0] != 0 and not exp.attributions[0][1].any()


# -- Lightning -------------------------------------------------------------------------------------------------------


def trained(module: Any, loader: Any, callbacks: Any = ()) -> Any:
    pl.seed_everything(1, verbose=False)
    module = module()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", InterpWarning)
        pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=list(callbacks), enable_model_summary=False, **quiet).fit(
            module, loader(), loader()
        )
    return module


class Words(pl.LightningModule):
    """Hugging Face's usual module: everything of the batch by name."""

    def __init__(self) -> None:
        super().__init__()
        self.model = bert()

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self(**batch).loss

    def validation_step(self, batch: Any, index: int) -> None:
        self(**batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def word_loader() -> Any:
    rows = [{**x, "labels": y} for x, y in texts()]
    return torch.utils.data.DataLoader(rows, batch_size=4)


def test_forward_takes_anything_by_name() -> None:
    watch = LightningCallback("ig", n_samples=4, target="label", output_key="logits", loggers="none", on_error="raise")
    module = trained(Words, word_loader, [watch])
    assert same_weights(trained(Words, word_loader), module)
    batch = next(iter(word_loader()))
    exp = explain(module, batch, "ig", target=1, output_key="logits", n_steps=6)[0]
    more = {k: batch[k] for k in ("attention_mask", "token_type_ids")}
    options: dict[str, Any] = {"target": 1, "n_steps": 6, "forward_kwargs": more, "output": "logits"}
    right = ip.explain(module.model.eval(), batch["input_ids"], "ig", **options)[0]
    torch.testing.assert_close(exp.attribution, right.attribution)
    assert watch.last[0].target == tuple(batch["labels"].tolist()) and watch.last[0].attribution.shape == (4, 8)


def test_a_forward_of_one_dict_gets_it_whole() -> None:
    batch = next(iter(word_loader()))
    net = TakesADict().eval()
    exp = explain(net, batch, "feature_ablation", target="label")[0]
    assert exp.attribution.shape == (4, 8) and exp.target == tuple(batch["labels"].tolist())
    right = ip.explain(net, {k: v for k, v in batch.items() if k != "labels"}, "feature_ablation",
                       target=batch["labels"])[0]  # fmt: skip
    torch.testing.assert_close(exp.attribution, right.attribution)


class Detector(nn.Module):
    """torchvision's signature: a list of pictures in, a list of dicts (or a dict of losses) out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 5, 2, 2)

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        found, loss = [], torch.zeros(())
        for image in images:
            heat = self.conv(image[None])[0, 0].sigmoid()
            at = int(heat.flatten().argmax())
            row, column = divmod(at, heat.shape[1])
            box = torch.tensor([[2.0 * column - 4, 2.0 * row - 4, 2.0 * column + 4, 2.0 * row + 4]])
            found.append({"boxes": box, "labels": torch.tensor([1]), "scores": heat.flatten()[at][None]})
            loss = loss - heat[4:7, 4:7].log().mean() + heat.mean()
        return {"loss": loss} if self.training else found


class Detecting(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Detector()

    def forward(self, images: Any, targets: Any = None) -> Any:
        return self.model(images, targets)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self(*batch)["loss"]

    def validation_step(self, batch: Any, index: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def pictures(sizes: Any = (24, 28, 20, 24)) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    out = []
    for n in sizes:
        image = torch.rand(3, n, n + 4, generator=generator) * 0.2
        image[:, 8:14, 8:14] = 1
        out.append((image, {"boxes": torch.tensor([[7.0, 7, 15, 15]]), "labels": torch.tensor([1])}))
    return out


def picture_loader(sizes: Any = (24, 28, 20, 24)) -> Any:
    return torch.utils.data.DataLoader(pictures(sizes), 2, collate_fn=lambda rows: tuple(zip(*rows)))


@pytest.mark.parametrize("method", ["saliency", "occlusion"])
@pytest.mark.parametrize("sizes", [(24, 24, 24, 24), (24, 28, 20, 24)])
def test_a_detectors_batch_is_explained_picture_by_picture(method: str, sizes: Any) -> None:
    def loader() -> Any:
        return picture_loader(sizes)

    watch = LightningCallback(method, n_samples=3, loggers="none", on_error="raise")
    module = trained(Detecting, loader, [watch])
    assert same_weights(trained(Detecting, loader), module)
    exp = watch.last[0]
    assert len(exp) == 3 and exp.attribution.shape == (3, 3, max(sizes), max(sizes) + 4)
    for i, (image, _) in enumerate(pictures(sizes)[:3]):
        one = explain(module, ((image,), ({},)), method)[0]
        assert torch.equal(exp[i].input[0], image) and exp[i].attribution.shape == exp[i].input.shape
        torch.testing.assert_close(exp[i].attribution, one.attribution)
        whole = exp.attribution[i].clone()
        whole[:, : image.shape[1], : image.shape[2]] = 0
        assert not whole.any()
        ax = exp.show(index=i, kind="overlay")
        drawn = ax.images[0].get_array()  # enlarged for the box
        assert drawn is not None and drawn.shape[0] * image.shape[2] == drawn.shape[1] * image.shape[1]
    assert exp.target_label is not None and all("box" in str(label) for label in exp.target_label)
    assert "<img" in exp.to_html()


def test_pictures_by_a_function_and_without_targets() -> None:
    module = Detecting().eval()
    batch = next(iter(picture_loader()))
    whole = explain(module, batch, "saliency")[0]
    for way in ({"input_fn": lambda b: b[0]}, {"module": "model"}):
        torch.testing.assert_close(explain(module, batch, "saliency", **way)[0].attribution, whole.attribution)
    alone = explain(module, (batch[0],), "saliency")[0]
    torch.testing.assert_close(alone.attribution, whole.attribution)
    with pytest.raises(InputError, match=r"input_fn failed on the batch, a tuple of 2.*stack expects"):
        explain(module, batch, "saliency", input_fn=lambda b: torch.stack(b[0]))


class TwoViews(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([a.sum((1, 2, 3)), (a * b).sum((1, 2, 3))], 1)


class OneView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_two_views_are_two_inputs_where_forward_takes_two_and_a_question_where_it_takes_one() -> None:
    views, y = (torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)), torch.tensor([0, 1, 2, 0])
    exp = explain(TwoViews(), (views, y), "input_x_gradient", target=1)[0]
    torch.testing.assert_close(exp.attributions[0], views[0] * views[1])
    for batch in ((views, y), (list(views), y)):
        with pytest.raises(InputError, match=r"2 tensors.*\(4, 3, 8, 8\).*OneView.forward takes 1.*batch\[0\]\[0\]"):
            explain(OneView(), batch, "saliency")
    exp = explain(OneView(), (views, y), "saliency", target="label", input_fn=lambda b: (b[0][1], b[1])[0])[0]
    assert torch.equal(exp.input, views[1])
    sequences = (torch.rand(4, 5, 3), torch.rand(4, 7, 3))

    class OfSequences(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a.sum(1) * b.sum(1)

    assert len(explain(OfSequences(), (sequences, y), "saliency", target=0)[0].attributions) == 2


# -- errors of the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TypeError, ValueError, KeyError, RuntimeError, IndexError, AttributeError])
def test_an_error_of_the_model_is_introduced_by_what_was_called_with_what(error: type[Exception]) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, scale: float = 1) -> Tensor:
            raise error("no such thing")

    text = rf"Broken was called with \(Tensor of shape \(2, 5, 3\) and dtype float32, scale=.*raised {error.__name__}"
    for method in ("saliency", "occlusion", "gradcam"):
        with pytest.raises(error, match=text) as caught:
            ip.explain(Broken(), torch.rand(2, 5, 3), method, target=0, forward_kwargs={"scale": 2.0})
        assert isinstance(caught.value, ModelError) and isinstance(caught.value.__cause__, error)


def test_arguments_that_do_not_fit_are_said() -> None:
    with pytest.raises(TypeError, match=r"OneView was called with \(Tensor of shape .*, Tensor of shape .*takes 2 pos"):
        ip.explain(OneView(), (torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)), "saliency", target=0)


def test_a_users_own_error_passes_through() -> None:
    class OwnError(Exception):
        pass

    def broken(x: Tensor) -> Tensor:
        raise OwnError("mine")

    with pytest.raises(OwnError, match=r"^mine$"):
        ip.explain(broken, torch.rand(2, 3), "saliency")
