"""Attacks of others behind `attack`, `FMN` and `DeepFool` by name, results on disk and as pages."""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InterpError
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import (
    FMN,
    PGD,
    DeepFool,
    Perturbed,
    Robustness,
    as_attack,
    attack,
    certify,
    corruptions,
    counterfactual,
    explanation_robustness,
    robustness,
)
from interp_plugins.robust.picture import lead

SPEC = InputSpec("image", mean=(0.5,), std=(0.25,), vocab=("a", "b", "c"))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


def pictures(n: int = 4) -> Tensor:
    return SPEC.normalise(torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.usefixtures("another_thread")
def test_a_function_meets_raw_inputs_and_is_held_in_the_ball() -> None:
    seen: list[tuple[float, float]] = []

    def bold(model: Any, x: Tensor, labels: Tensor) -> Tensor:
        seen.append((float(x.min()), float(x.max())))
        x = x.requires_grad_(True)
        loss = nn.functional.cross_entropy(model(x), labels)
        return x + torch.autograd.grad(loss, x)[0].sign() + 0.0 * torch.randn_like(x)

    model, x, state = net().requires_grad_(True), pictures(), torch.get_rng_state()
    found = attack(model, x, as_attack(bold), eps=0.05, input_spec=SPEC)
    assert min(low for low, _ in seen) >= 0 and max(high for _, high in seen) <= 1
    fgsm = attack(model, x, "fgsm", eps=0.05, input_spec=SPEC)
    assert torch.allclose(found.delta, fgsm.delta, atol=1e-6) and found.state == fgsm.state
    assert found.params["attack"] == "bold" and torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    curve = robustness(model, x, attack=bold, eps=(0.05, 0.3), input_spec=SPEC, check=False)
    assert curve.names[1] == "bold" and curve.right[1].tolist() == [s == "held" for s in fgsm.state]
    with pytest.raises(InterpError, match="an attack gives the changed inputs"):
        attack(model, x, lambda model, x, labels: x[:1], input_spec=SPEC)
    with pytest.raises(InterpError, match="a goal is of the attacks by name"):
        attack(model, x, bold, goal=[(int(c) + 1) % 3 for c in model(x).argmax(1)], input_spec=SPEC)
    with pytest.raises(InterpError, match="one of foolbox, torchattacks or AutoAttack"):
        attack(model, x, 3, input_spec=SPEC)


def others() -> list[str]:
    """Those of the packages that are installed."""
    return [name for name in ("foolbox", "torchattacks") if importlib.util.find_spec(name) is not None]


def peer(name: str) -> Any:
    """A package, whose own imports may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.mark.parametrize("package", others() or ["none of them"])
def test_attacks_of_other_packages_find_what_they_find_alone(package: str) -> None:
    model, raw = net(), SPEC.denormalise(pictures())
    labels = model(SPEC.normalise(raw)).argmax(1)
    behind = lambda v: model(SPEC.normalise(v))  # noqa: E731
    if package == "foolbox":
        theirs = peer("foolbox")
        made = theirs.attacks.LinfPGD(steps=5, random_start=False)
        whole = nn.Sequential(_Normalise(), model).eval()
        _, alone, _ = made(theirs.PyTorchModel(whole, bounds=(0, 1)), raw, labels, epsilons=0.05)
    elif package == "torchattacks":
        theirs = peer("torchattacks")
        whole = nn.Sequential(_Normalise(), model).eval()
        made = theirs.PGD(whole, eps=0.05, alpha=0.02, steps=5, random_start=False)
        alone = made(raw, labels)
    else:  # the way is the same for our own
        made = lambda m, x, y: PGD(m, None, 0.0, 1.0).perturb(x, 0.05, 0.02, 5, y)  # noqa: E731
        alone = PGD(behind, None, 0.0, 1.0).perturb(raw, 0.05, 0.02, 5, labels)
    found = attack(model, SPEC.normalise(raw), as_attack(made), eps=0.05, input_spec=SPEC)
    assert torch.allclose(found.delta, alone - raw, atol=1e-5)
    if package == "torchattacks":
        assert made.model is whole


@pytest.mark.skipif(importlib.util.find_spec("torchattacks") is None, reason="torchattacks is not installed")
def test_an_attack_that_is_put_together_meets_the_model_in_every_part() -> None:
    theirs, model, x = peer("torchattacks"), net(), pictures()
    made_of = lambda m: [theirs.PGD(m, eps=0.05, alpha=0.02, steps=3, random_start=False) for _ in range(2)]  # noqa: E731
    inner, behind = made_of(nn.Identity()), made_of(nn.Sequential(_Normalise(), model))
    made, labels = theirs.MultiAttack(inner), model(x).argmax(1)
    alone = theirs.MultiAttack(behind)(SPEC.denormalise(x), labels)
    found = attack(model, x, as_attack(made), eps=0.05, input_spec=SPEC)
    assert torch.allclose(found.delta, alone - SPEC.denormalise(x), atol=1e-5)
    assert all(isinstance(one.model, nn.Identity) for one in inner)


class _Part:
    __module__ = "autoattack.part"

    def __init__(self, model: Any):
        self.predict, self.device = model, "elsewhere"


class _AutoAttack:
    """As the package's is built: parts that hold the model under names of their own."""

    __module__ = "autoattack.autoattack"

    def __init__(self, model: Any):
        self.model, self.part, self.device = model, _Part(model), "elsewhere"

    def run_standard_evaluation(self, x: Tensor, labels: Tensor) -> Tensor:
        assert torch.device(self.part.device).type == "cpu"
        v = x.clone().requires_grad_(True)
        loss = nn.functional.cross_entropy(self.part.predict(v), labels) + 0 * self.model(x).sum()
        return (x + 0.05 * torch.autograd.grad(loss, v)[0].sign()).clamp(0, 1)


def test_autoattack_meets_the_model_in_every_part() -> None:
    model, x, given = net(), pictures(), _AutoAttack(nn.Identity())
    found = attack(model, x, as_attack(given), eps=0.05, input_spec=SPEC)
    assert torch.allclose(found.delta, attack(model, x, "fgsm", eps=0.05, input_spec=SPEC).delta, atol=1e-6)
    assert isinstance(given.model, nn.Identity) and isinstance(given.part.predict, nn.Identity)
    assert given.device == given.part.device == "elsewhere"


def test_an_attack_of_some_samples_is_refused_where_they_have_arguments() -> None:
    model, x, bias = net(), pictures(), torch.randn(4, 3)
    some = lambda m, v, labels: v + 0 * m(v[:2]).sum()  # noqa: E731
    assert attack(model, x, some, eps=0.05, input_spec=SPEC).state == ("held",) * 4
    with pytest.raises(InterpError, match="asks about 2 of 4 samples and does not say which"):
        attack(lambda v, b: model(v) + b, x, some, eps=0.05, input_spec=SPEC, additional_forward_args=bias)


class _Normalise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return SPEC.normalise(x)


@pytest.mark.parametrize(("cls", "name"), [(FMN, "fmn"), (DeepFool, "deepfool")])
def test_the_smallest_changes_have_classes(cls: Any, name: str) -> None:
    model, x = nn.Linear(5, 3).double(), torch.randn(3, 5, dtype=torch.float64)
    found = attack(model, x, name, norm="L2")
    assert torch.equal(cls(model).perturb(x), found.perturbed)
    assert cls(model, -9.0, 9.0)(x, target=model(x).argmin(1), targeted=True).shape == x.shape
    pair = cls(lambda a, b: model(torch.cat([a, b], 1))).perturb((x[:, :2], x[:, 2:]), norm="linf")
    assert isinstance(pair, tuple) and pair[1].shape == (3, 3)


def test_what_is_saved_comes_back_whole(tmp_path: Path) -> None:
    rows = torch.randn(50, 3)
    results = [
        attack(net(), pictures(), "fmn", norm="L2", input_spec=SPEC),
        attack(lambda a, b: torch.stack([a.sum(1), b.sum(1)], 1), (torch.randn(2, 3), torch.randn(2, 1)), eps=9.0),
        counterfactual(nn.Linear(3, 2), rows[:2], data=rows),
    ]
    for found in results:
        back = Perturbed.load(found.save(tmp_path / "attack.safetensors"))
        assert back.to_df().equals(found.to_df()) and back.params == found.params and back.spec == found.spec
        assert back.changes == found.changes and repr(back) == repr(found) and back.state == found.state
        for a, b in zip(_parts(back.delta), _parts(found.delta), strict=True):
            assert torch.equal(a, b)
    (tmp_path / "other").write_bytes(b"nothing of ours")
    with pytest.raises(InterpError, match=r"not a file written by Perturbed\.save"):
        Perturbed.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="No saved Perturbed"):
        Perturbed.load(tmp_path / "none")


def test_measurements_and_certificates_come_back_whole(tmp_path: Path) -> None:
    model, x = net(), pictures()
    asked = {"steps": 3, "check": False, "methods": "saliency", "input_spec": SPEC}
    results: list[Any] = [
        robustness(model, x, eps=(0.05, 0.3), **asked),
        corruptions(model, x, names=["fog"], severities=(1,), input_spec=SPEC),
        explanation_robustness(model, x, ("saliency", "ig"), n_random=2, steps=2, keep=0.5, input_spec=SPEC),
        certify(model, x, n=50, input_spec=SPEC),
    ]
    for found in results:
        path = found.save(tmp_path / "found.safetensors")
        back = type(found).load(path)
        assert back.to_df().equals(found.to_df()) and repr(back) == repr(found) and back.params == found.params
    curve, maps = Robustness.load(results[0].save(path)), results[2]
    assert curve.examples is not None and curve.maps is not None and results[0].maps is not None
    assert torch.equal(curve.maps[0][0].attribution, results[0].maps[0][0].attribution)
    sizes = [Path(one.to_html(tmp_path / "a.html")).stat().st_size for one in (curve, results[0])]
    assert sizes[0] == sizes[1]
    with pytest.raises(InterpError, match=r"it holds a Robustness: read it with Robustness\.load"):
        type(maps).load(path)
    bytes_ = bytearray(path.read_bytes())
    bytes_[-3] ^= 1
    path.write_bytes(bytes_)
    with pytest.raises(InterpError, match="its digest does not fit"):
        Robustness.load(path)


def _parts(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def test_a_page_holds_the_table_and_the_pictures(tmp_path: Path) -> None:
    found = attack(net(), pictures(), eps=0.1, input_spec=SPEC, steps=3)
    text = Path(found.to_html(tmp_path / "page.html", title="Mine <b>")).read_text(encoding="utf-8")
    assert "no proof that nothing turns it" in text  # what states mean
    assert "changed with pgd by at most 0.1 (Linf)" in text and "another answer" in text and "Perturbed(" not in text
    assert "Mine &lt;b&gt;" in text and "data:image/png" in text and "margin_after" in text and found.plot().axes.size
    table = attack(nn.Linear(3, 2), torch.randn(2, 3), eps=0.1, steps=2)
    assert "<img" not in Path(table.to_html(tmp_path / "table.html")).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("state", "goals", "params", "said"),
    [
        (("turned", "held", "turned"), None, {"attack": "pgd", "eps": 2 / 255, "norm": "Linf"},
         "3 samples, each changed with pgd by at most 2/255 (Linf): 2 now get another answer, 1 keeps its answer."),
        (("turned",), ("cat",), {"attack": "fmn", "eps": math.inf, "norm": "L2", "goal": None},
         "1 sample changed as little as fmn could find (L2): 1 now gets 'cat'."),
        (("none found", "already"), None, {"attack": "regions", "eps": math.inf, "norm": "L2"},
         "2 samples, each without the fewest regions that were found to decide: 1 for which no such change was found, "
         "1 that needed no change."),
    ],
)  # fmt: skip
def test_the_page_leads_with_a_sentence(state: Any, goals: Any, params: Any, said: str) -> None:
    assert lead(state, goals, params, InputSpec("image")) == said
