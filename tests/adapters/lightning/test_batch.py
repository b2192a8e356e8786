"""How the input, the label and the output are found."""

from __future__ import annotations

import operator
from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from interp_plugins.core.errors import InputError, InputTypeError, InterpError, ModelError, TargetError
from interp_plugins.core.truth import Reading
from interp_plugins.lightning import explain
from interp_plugins.lightning.batch import read_batch
from interp_plugins.lightning.samples import Samples

X = torch.arange(24.0).reshape(4, 6)
Y = torch.tensor([0, 1, 2, 0])
IDS = torch.arange(12).reshape(4, 3)
MASK = torch.ones(4, 6)

Pair = namedtuple("Pair", "image label")


@dataclass
class Sample:
    image: torch.Tensor
    label: torch.Tensor


class OfX(nn.Module):
    def forward(self, x):
        return x


class OfImageAndMask(nn.Module):
    def forward(self, image, mask=None, labels=None):
        return image


class OfMaskAndImage(nn.Module):
    def forward(self, mask, image):
        return image


class OfTwo(nn.Module):
    def forward(self, a, b):
        return a + b


LABELLED = Y.tolist()
CASES = {
    "tensor": (X, OfX(), [X], {}, None),
    "tuple": ((X, Y), OfX(), [X], {}, LABELLED),
    "list": ([X, Y[:, None]], OfX(), [X], {}, LABELLED),
    "regression": ((X, X), OfX(), [X], {}, None),
    "two candidates for labels": ((X, Y, Y), OfX(), [X], {}, None),
    "several inputs": (((X, X + 1), Y), OfTwo(), [X, X + 1], {}, LABELLED),
    "dict by name": ({"x": X, "y": Y}, OfX(), [X], {}, LABELLED),
    "dict, other arguments go along": (
        {"image": X, "mask": MASK[0] > 0, "labels": Y}, OfImageAndMask(), [X], {"mask": MASK[0] > 0}, LABELLED,
    ),
    "dict, only one image": ({"picture": X, "weight": X[:, 0], "target": Y}, OfX(), [X], {}, LABELLED),
    "mapping that is no dict": (UserDict(x=X, label=Y), OfX(), [X], {}, LABELLED),
    "named tuple": (Pair(X, Y), OfImageAndMask(), [X], {}, LABELLED),
    "dataclass": (Sample(X, Y), OfX(), [X], {}, LABELLED),
    "dict inside a tuple": (({"x": X}, Y), OfX(), [X], {}, LABELLED),
    "token ids": ((IDS, Y), OfX(), [IDS], {}, LABELLED),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_L14_the_input_is_found(case) -> None:
    batch, model, inputs, kwargs, labels = CASES[case]
    found = read_batch(batch, model)
    assert len(found.inputs) == len(inputs) and all(map(torch.equal, found.inputs, inputs))
    assert found.kwargs.keys() == kwargs.keys() and all(torch.equal(found.kwargs[k], v) for k, v in kwargs.items())
    assert (found.labels.tolist() if found.labels is not None else None) == labels
    assert found.names is None


REFUSED = {
    "two images": ({"left": X, "right": X}, OfX(), InputError, "several floating-point tensors .left, right."),
    "no image": ({"id": Y}, OfX(), InputError, "has no floating-point tensor"),
    "label first": ((Y, X), OfX(), InputError, "looks like labels.*input_key=1"),
    "empty": ((), OfX(), InputError, "No input found"),
    "text": ("a sentence", OfX(), InputError, "No input found.*str"),
    "not enough": ((X, Y), OfTwo(), InputError, r"needs a, b.*for b.*itemgetter\(0, 1\)"),
    "a number": (torch.tensor(1.0), OfX(), InputError, "single number"),
    "lists of text": ((["a", "b"], Y), OfX(), InputTypeError, "expected a tensor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_L14_a_doubt_is_an_error_that_says_what_decides(case) -> None:
    batch, model, error, text = REFUSED[case]
    with pytest.raises(error, match=text) as caught:
        read_batch(batch, model)
    assert isinstance(caught.value, InterpError)


def test_L14_input_key_and_input_fn_decide() -> None:
    assert torch.equal(read_batch((Y, X), OfX(), Reading(1)).inputs[0], X)
    assert read_batch((Y, X), OfX(), Reading(1)).labels.tolist() == LABELLED
    assert torch.equal(read_batch({"left": X, "right": X + 1}, OfX(), Reading("right")).inputs[0], X + 1)
    assert torch.equal(read_batch(Sample(X, Y), OfX(), Reading("image")).inputs[0], X)
    assert len(read_batch((X, X, Y), OfTwo(), Reading(input_fn=operator.itemgetter(0, 1))).inputs) == 2
    named = read_batch((X, MASK), OfMaskAndImage(), Reading(input_fn=lambda b: {"image": b[0], "mask": b[1] > 0}))
    assert named.names == ("image",) and list(named.kwargs) == ["mask"]
    with pytest.raises(InputError, match=r"no input_key='imag'.*Did you mean 'image'"):
        read_batch(Sample(X, Y), OfX(), Reading("imag"))
    with pytest.raises(InputError, match="2 parts, so there is no input_key=2"):
        read_batch((X, Y), OfX(), Reading(2))
    with pytest.raises(InputTypeError, match="input_fn returned"):
        read_batch((X, Y), OfX(), Reading(input_fn=lambda batch: "x"))


def test_L14_samples_keep_arguments_in_step_with_their_rows() -> None:
    samples = Samples(3)
    for rows in (slice(0, 2), slice(2, 4)):
        batch = {"image": X[rows], "mask": MASK[rows] * X[rows], "labels": Y[rows]}
        samples.add(read_batch(batch, OfImageAndMask()))
    found = samples.joined()
    assert samples.closed and len(samples) == 3
    assert torch.equal(found.inputs[0], X[:3]) and torch.equal(found.inputs[1], X[:3])
    assert found.labels.tolist() == LABELLED[:3]


class Named(nn.Module):
    """Its explained input comes second, and its output is a dict."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, mask, image):
        return {"logits": self.linear(image * mask), "other": image}


def test_L14_arguments_by_name_reach_the_model() -> None:
    torch.manual_seed(0)
    net, mask = Named(), MASK.bool()
    mask[:, 3:] = False
    exps = explain(net, {"image": X, "mask": mask, "y": Y}, ["ig", "occlusion"], target="label", output_key="logits")
    assert list(exps[0].target) == LABELLED and exps[0].meta["model"] == "Named"
    for exp in exps:  # the mask stands inside the model: a row of another batch may be rounded differently
        inside, outside = exp.attribution[:, :3].abs().sum(), exp.attribution[:, 3:].abs().sum()
        assert float(inside) > 0 and float(outside) <= 1e-5 * float(inside)


def logits(output):
    return output["logits"]


def test_L15_output_key_and_output_fn(make_trainer, make_callback, make_loader, make_net, net_class) -> None:
    class DictOutput(net_class):
        def forward(self, x):
            return {"logits": super().forward(x), "features": x}

        def step(self, batch):
            return nn.functional.cross_entropy(self(batch[0])["logits"], batch[1])

    net, data = make_net(DictOutput), make_loader(4)
    for how in ({"output_key": "logits"}, {"output_fn": logits}):
        callback = make_callback(**how)
        make_trainer(callback).validate(net, data, verbose=False)
        assert callback.n_runs == 1
    with pytest.raises(ModelError, match="output='logits'"):
        make_trainer(make_callback()).validate(net, data, verbose=False)


def test_L15_no_forward_and_module(make_trainer, make_callback, make_loader, make_net, net_class) -> None:
    import pytorch_lightning as pl

    class Without(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make_net()

        def validation_step(self, batch, batch_idx):
            self.model(batch[0])

    with pytest.raises(ModelError, match=r"Without has no forward.*module=.*it has model"):
        make_trainer(make_callback()).validate(Without(), make_loader(4), verbose=False)
    for layer in ("body.0", "model.body.0"):
        callback = make_callback("gradcam", module="model", layer=layer)
        make_trainer(callback).validate(Without(), make_loader(4), verbose=False)
        assert callback.last[0].layer == "body.0"


def test_labels_and_names_of_classes(make_trainer, make_callback, make_loader, make_net) -> None:
    data = make_loader(4)
    truth = data.dataset.tensors[1][:2].tolist()
    names = ["cat", "dog", "owl"]
    callback = make_callback(target=["label", "owl", None], class_names=names, mean=[0.5], std=[0.25])
    make_trainer(callback).validate(make_net(), data, verbose=False)
    assert [e.target_label for e in callback.last] == [
        tuple(names[i] for i in truth), ("owl", "owl"), callback.last[2].prediction_label,
    ]  # fmt: skip
    assert callback.last[0].spec.mean == (0.5,) and callback.last[0].spec.kind == "image"


def test_no_clear_label_is_an_error() -> None:
    with pytest.raises(TargetError, match='target="label" needs the ground truth'):
        explain(nn.Linear(6, 3), X, "ig", target="label")
