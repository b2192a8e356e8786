"""`evaluate`: explained once, counted before and after by a hook, the same in any split and number of processes."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import interp_plugins as ip
from interp_plugins import metrics as im
from interp_plugins.core.errors import InputError, InputTypeError, TargetError, UnknownNameError
from interp_plugins.core.spec import InputSpec
from interp_plugins.metrics.controls import CONTROLS
from tests.metrics import gloo_script

G = torch.Generator().manual_seed(0)
X = torch.randn(7, 3, 12, 12, generator=G).double()
MASKS = torch.rand(7, 12, 12, generator=G) > 0.6
NAMES = [f"picture {i}" for i in range(7)]
METHODS = ("saliency", "integrated_gradients", "noise_tunnel")


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, outputs))
    return nn.Sequential(*layers).double().eval()


def largest_gap(a: im.Scores, b: im.Scores) -> float:
    assert list(a) == list(b) and all(a[k].ids == b[k].ids and a[k].reasons == b[k].reasons for k in a)
    return max(float((a[k].values - b[k].values).abs().nan_to_num().max()) for k in a)


class Counter:
    """Rows that went through a module, forward and backward."""

    def __init__(self, module: nn.Module):
        self.forward = self.backward = 0
        module.register_forward_hook(self.seen)

    def seen(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self.back)

    def back(self, grad: Tensor) -> None:
        self.backward += len(grad)


@ip.row_probe(False)
def test_what_is_asked_is_said_before_and_counted_by_a_hook() -> None:
    model = net()
    options: dict[str, Any] = {
        "methods": METHODS,
        "metrics": ["srg", ("srg", {"steps": 5}), "pixel_flipping", "faithfulness_correlation", "entropy"],
        "controls": list(CONTROLS),
        "n_steps": 4,
        "nt_samples": 3,
    }
    with ip.acceleration(False):
        planned = ip.evaluate(model, X, dry_run=True, **options)
        count = Counter(model)
        scores = ip.evaluate(model, X, **options)
    assert planned == scores.rows and (planned.forward, planned.backward) == (count.forward, count.backward)
    assert scores.rows.n == 7 and sum(s.passes for s in scores.values()) == sum(
        f for what, (f, _) in scores.rows.rows.items() if what in scores.metrics
    )
    assert scores.rows.rows["pixel_flipping"] == (0, 0)  # rows of srg
    assert f"{planned.forward:,} forward" in repr(planned) and "<table>" in planned._repr_html_()
    assert planned.to_df()["forward"].iloc[-1] == planned.forward


@ip.row_probe(False)
@pytest.mark.parametrize("method", ["full_grad", "grad_cam"])
def test_what_a_call_asks_beside_its_samples_is_planned_once_for_each_batch(method: str) -> None:
    batches = [X[:3], X[3:4], X[4:]]
    planned = ip.evaluate(net(), batches, method, "gini_index", dry_run=True)
    assert planned == ip.evaluate(net(), batches, method, "gini_index").rows


@ip.row_probe(False)
def test_many_methods_cost_no_more_than_one_where_rows_do_not_follow_the_map() -> None:
    alone, many = (
        ip.evaluate(net(), X, methods, "faithfulness_correlation", dry_run=True).rows["faithfulness_correlation"]
        for methods in ("saliency", ("saliency", "input_x_gradient", "grad_cam", "deconvolution"))
    )
    assert alone == many


def test_any_split_order_and_loader_gives_the_same() -> None:
    options: dict[str, Any] = {
        "methods": METHODS,
        "metrics": ("srg", "gini_index", "relevance_mass"),
        "masks": MASKS,
        "controls": ("control.random", "control.input"),
        "nt_samples": 2,
        "n_steps": 4,
    }
    whole = ip.evaluate(net(), X, **options)
    pieces = ip.evaluate(net(), [X[:1], X[1:5], X[5:]], **options)
    shuffled = DataLoader(TensorDataset(X), 3, shuffle=True, generator=torch.Generator().manual_seed(5))
    other = ip.evaluate(net(), shuffled, **options)
    assert largest_gap(whole, pieces) < 1e-12 and largest_gap(whole, other) < 1e-12
    first = ip.evaluate(net(), X, **{**options, "n": 3})
    assert first["saliency", "srg"].ids == (0, 1, 2)
    gaps = (first[k].values - whole[k].values[:3] for k in first)
    assert max(float(g.abs().max()) for g in gaps) < 1e-12


@pytest.mark.slow
def test_two_processes_and_a_sampler_that_fills_up_give_one_process_score(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "tests.metrics.gloo_script", str(tmp_path)], cwd=root, check=True, timeout=300
    )
    alone = ip.evaluate(gloo_script.model(), DataLoader(gloo_script.data(), 3), **gloo_script.OPTIONS)
    for rank in range(gloo_script.WORLD):
        found = im.Scores.load(tmp_path / f"scores_{rank}.json")
        assert largest_gap(found, alone) < 1e-12 and found["saliency", "srg"].n == gloo_script.N
        logged = torch.load(tmp_path / f"torchmetric_{rank}.pt")
        assert abs(float(logged) - alone["saliency", "srg"].mean) < 1e-12, "a sample that fills up counts once"


def test_labels_ids_masks_and_truth_come_with_the_batches() -> None:
    samples = [{"x": x, "y": i % 3, "name": n, "m": m} for i, (x, n, m) in enumerate(zip(X, NAMES, MASKS))]
    loader = DataLoader(samples, 3)
    keys: dict[str, Any] = {"input_key": "x", "label_key": "y", "id_key": "name", "target": "label"}
    found = ip.evaluate(net(), loader, "saliency", masks="m", **keys)
    labels = torch.arange(7) % 3
    for masks in (MASKS, list(MASKS), dict(zip(NAMES, MASKS))):
        plain = ip.evaluate(net(), X, "saliency", masks=masks, target=labels, ids=NAMES)
        assert largest_gap(found, plain) < 1e-12
    assert found.metrics == ["srg", "gini_index", "relevance_mass", "mask_auc", "pointing_game"]
    assert found["saliency", "srg"].ids == tuple(sorted(NAMES))
    true = ip.evaluate(net(), X, "saliency", truth=MASKS[:, None].expand(-1, 3, -1, -1).double())
    assert true.metrics == ["srg", "gini_index", "truth_rank", "truth_auc"]


def test_values_are_those_of_the_functions() -> None:
    model = net()
    exp = ip.explain(model, X, "input_x_gradient", target=1)[0]
    found = ip.evaluate(model, X, "input_x_gradient", ["srg", "hoyer"], target=1, seed=4, baselines=0.5)
    expected = im.srg(model, exp, baselines=0.5, seed=4, ids=torch.arange(7))
    assert torch.allclose(found["input_x_gradient", "srg"].values, expected, 0, 1e-12)
    assert (
        torch.equal(found["input_x_gradient", "hoyer"].values, im.hoyer(exp))
        and found["input_x_gradient", "srg"].seed == 4
    )


def test_one_logit_several_labels_and_functions_are_judged_by_what_was_explained() -> None:
    """The score of class 0 of one logit is minus the logit, and each sample has its own label."""
    one = ip.evaluate(
        net(1), X, "input_x_gradient", "srg", input_spec=ip.InputSpec("image", vocab=("no", "yes")), target="no"
    )
    other = ip.evaluate(net(1), X, "input_x_gradient", "srg", target=lambda out: -out[:, 0])
    assert torch.allclose(one["input_x_gradient", "srg"].values, other["input_x_gradient", "srg"].values, 0, 1e-12)
    several = ip.evaluate(net(), X, "saliency", "srg", activation=torch.sigmoid, threshold=0.4)
    best = ip.evaluate(net(), X, "saliency", "srg", target=net()(X).argmax(1))
    assert torch.allclose(several["saliency", "srg"].values, best["saliency", "srg"].values, 0, 1e-12)


def test_inputs_by_name_and_ids_of_words() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(6, 2)

        def forward(self, ids: Tensor, table: Tensor) -> Tensor:
            return self.head(torch.cat([self.words(ids).mean(1), table], 1))

    torch.manual_seed(1)
    model, ids, table = Two().eval(), torch.randint(9, (5, 3)), torch.randn(5, 2)
    found = ip.evaluate(model, {"ids": ids, "table": table}, ("ig", "feature_ablation"), controls=["control.input"])
    by_hand = model(ids, table).detach()
    exp = ip.explain(model, (ids, table), "feature_ablation", target=by_hand.argmax(1))[0]
    expected = im.srg(model, exp, baselines=0, ids=torch.arange(5))
    assert torch.allclose(found["feature_ablation", "srg"].values, expected, 0, 1e-6)
    assert not found["control.input", "srg"].values.isnan().any()


def test_the_model_and_the_generators_are_as_they_were_also_after_an_error() -> None:
    model = net().train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    ip.evaluate(model, X, ("saliency", "noise_tunnel"), "srg", nt_samples=2)

    def breaks(batch: Any) -> Tensor:
        raise KeyError("no mask")

    with pytest.raises(KeyError):
        ip.evaluate(model, [X], "saliency", masks=breaks)
    assert model.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_scores_are_shown_saved_and_read_again(tmp_path: Path) -> None:
    maps = MASKS.clone()
    maps[2] = False
    found = ip.evaluate(net(), X, ("saliency", "grad_cam"), masks=maps, controls=["control.edges"], ids=NAMES)
    assert found["saliency", "relevance_mass"].undefined == {"the mask is empty": 1}
    again = im.Scores.load(found.save(tmp_path / "scores.json"))
    assert repr(again) == repr(found) and again.table == found.table and again.rows == found.rows
    assert math.isnan(again["saliency", "mask_auc"].values[2]) and list(again) == list(found)
    text = Path(found.to_html(tmp_path / "scores.html")).read_text().replace("<wbr>", "")
    assert "<img" in text and "http" not in text.replace("http-equiv", "") and "the mask is empty" not in text
    assert all(name in text for name in (*found.methods, *found.metrics, "What was asked of the model"))
    assert len(found.per_sample()) == 7 * len(found) and len(found.to_df()) == len(found)
    (tmp_path / "scores.json").write_text((tmp_path / "scores.json").read_text().replace("0.1", "0.2", 1))
    with pytest.raises(InputError, match="digest does not fit"):
        im.Scores.load(tmp_path / "scores.json")
    with pytest.raises(FileNotFoundError, match="No saved scores"):
        im.Scores.load(tmp_path / "none.json")


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_know_nothing_of_the_model(name: str) -> None:
    a, b = (ip.evaluate(model, X, "saliency", "entropy", controls=[name]) for model in (net(), net(2)))
    assert torch.equal(a[name, "entropy"].values, b[name, "entropy"].values)
    assert a[name, "entropy"].values.unique().numel() == (1 if name in ("control.centre", "control.constant") else 7)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"metrics": "srgg"}, UnknownNameError, "Did you mean 'srg'"),
        ({"metrics": []}, InputError, "metrics is empty"),
        ({"metrics": 3}, InputTypeError, "metrics must be"),
        ({"metrics": ["srg", "srg"]}, InputError, "asked for twice"),
        ({"metrics": "kendall_tau"}, InputError, "agreement_matrix"),
        ({"metrics": {"top_k": {"kk": 2}}}, UnknownNameError, "parameter of top_k"),
        ({"metrics": "relevance_mass"}, InputError, "needs masks="),
        ({"masks": MASKS[:3]}, InputError, "masks has 3 entries"),
        ({"masks": {0: MASKS[0]}}, InputError, "masks has no entry for sample 1"),
        ({"ids": NAMES[:2]}, InputError, "2 ids were given"),
        ({"target": [0, 1]}, TargetError, "2 explanations per sample"),
        ({"target": torch.tensor([0, 1])}, InputError, "2 class indices"),
        ({"n_step": 3}, InputTypeError, "No method takes 'n_step'"),
        ({"controls": ["control.none"]}, InputError, "is no control"),
        ({"data": 3}, InputTypeError, "a loader of batches"),
        ({"data": []}, InputError, "there was no sample"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ip.evaluate(net(), options.pop("data", X), **{"methods": "saliency", **options})


def test_of_many_maps_it_is_said_whose_map_does_not_fit() -> None:
    metrics: dict[str, Any] = {"infidelity": {"n_perturb_samples": 5}}
    with pytest.raises(InputError, match=r"infidelity of grad_cam: .*perturb='subsets'"):
        ip.evaluate(net(), X, ("saliency", "grad_cam"), metrics)
    metrics["infidelity"]["perturb"] = "subsets"
    assert ip.evaluate(net(), X, ("saliency", "grad_cam"), metrics)["grad_cam", "infidelity"].n == 7


def test_all_metrics_of_ids_ask_about_ids() -> None:
    """Where a method starts at rows of zeros no id stands for them: the model cannot be asked, and need not be."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids).tanh().sum(1))

    torch.manual_seed(0)
    model, ids = Words(), torch.randint(1, 9, (3, 5))
    [exp] = ip.explain(model, ids, "ig", n_steps=50, input_spec=InputSpec("text"))
    error = im.completeness(model, exp)
    change = exp.score.double() - exp.baseline_score.double()
    assert torch.allclose(error, (exp.attribution.double().sum(1) - change).abs() / change.abs(), atol=1e-5)
    with pytest.raises(InputError, match="no ids but rows of zeros"):
        im.completeness(model, exp, target=[1 - c for c in exp.target])
    assert im.srg(model, exp).isfinite().all()
    found = ip.evaluate(model, ids, "ig", ("completeness", "weights_gain", "srg"), input_spec=InputSpec("text"))
    assert not any(score.n_undefined for score in found.values())


def test_weights_are_judged_on_the_baseline_of_all_metrics() -> None:
    """What the same map is worth is one number, in `srg` and in what of it is lost with other weights."""
    spec, model, x = InputSpec("image", mean=(0.5,) * 3, std=(0.2,) * 3), net(), X
    found = ip.evaluate(model, x, "saliency", (("weights_gain", {"steps": 5}),), input_spec=spec)
    [exp] = ip.explain(model, x, "saliency", input_spec=spec)
    black = torch.full_like(x, -2.5)
    alone = im.weights_gain(model, exp, baselines=black, steps=5, ids=torch.arange(len(x)))
    assert torch.allclose(found["saliency", "weights_gain"].values, alone, atol=1e-5)
