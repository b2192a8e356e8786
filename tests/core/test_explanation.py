"""Explanation: cut into samples, written and read back, tabulated, told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from interp_plugins import Explanation, Explanations, InputSpec, explain
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.tensors import Inputs

SPEC = InputSpec("image", mean=(0.5,), std=(0.25,), vocab=("cat", True, None, 3), feature_names=("grey",))


def made(n: int = 3, **fields: Any) -> Explanation:
    g = torch.Generator().manual_seed(0)
    known: dict[str, Any] = {
        "attributions": torch.randn(n, 1, 4, 5, generator=g),
        "inputs": torch.rand(n, 1, 4, 5, generator=g),
        "baselines": torch.zeros(n, 1, 4, 5),
        "method": "integrated_gradients",
        "title": "Integrated Gradients",
        "target": tuple(range(n)),
        "target_label": ("cat", True, None, 3)[:n],
        "prediction": (1,) * n,
        "prediction_label": (True,) * n,
        "probability": torch.linspace(0.1, 0.9, n),
        "score": torch.linspace(1, 3, n),
        "baseline_score": torch.linspace(0.5, 1, n),
        "convergence_delta": torch.linspace(-0.1, 0.1, n),
        "params": {
            "n_steps": 20,
            "rows": (1, 2),
            "window": (slice(None), slice(0, 4, 2)),
            "nothing": None,
            "flag": True,
        },
        "spec": SPEC,
        "names": tuple(f"{i}.png" for i in range(n)),
        "tokens": tuple([f"t{i}", "x"] for i in range(n)),
        "seed": 3,
        "seconds": 0.25,
        "meta": {"versions": {"torch": "2"}, "per_sample": {"map_error": [0.1 * i for i in range(n)]}, "passes": 7},
    }
    return Explanation(**{**known, **fields})


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return bool(a == b) and type(a) is type(b)


def fields_of(exp: Explanation) -> dict[str, Any]:
    return {k: (dict(v) if k in ("params", "meta") else v) for k, v in vars(exp).items()}


# -- cutting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("i", "row"), [(0, 0), (2, 2), (-1, 2)])
def test_sample_is_an_explanation_of_its_own(i: int, row: int) -> None:
    exp = made()
    one = exp[i]
    assert len(one) == 1
    assert torch.equal(one.attribution, exp.attribution[row : row + 1])
    assert torch.equal(one.input, exp.input[row : row + 1])
    assert one.target == (row,) and one.names == (f"{row}.png",) and one.tokens == ([f"t{row}", "x"],)
    assert one.score.tolist() == [exp.score[row].item()] and one.relative_delta.shape == (1,)
    assert one.meta["per_sample"]["map_error"] == [0.1 * row] and one.meta["passes"] == 7
    assert one.spec is exp.spec and one.params == exp.params


def test_slice_keeps_the_order_and_iteration_gives_samples() -> None:
    exp = made()
    assert exp[::-1].target == (2, 1, 0) and len(exp[1:]) == 2
    assert [e.target for e in exp] == [(0,), (1,), (2,)]
    assert exp[1:][0].names == ("1.png",)


def test_tuples_of_tensors_are_cut_one_by_one() -> None:
    exp = made(attributions=(torch.zeros(3, 2), torch.ones(3, 4)), inputs=(torch.zeros(3, 2), torch.ones(3, 4)))
    assert [a.shape for a in exp[1].attributions] == [(1, 2), (1, 4)]
    assert exp.attribution is exp.attributions[0] and exp.input is exp.inputs[0]


def test_missing_facts_stay_missing() -> None:
    bare = Explanation(attributions=torch.zeros(2, 3), inputs=torch.zeros(2, 3), method="mine")
    assert (
        bare[0].target is None and bare[0].score is None and bare.relative_delta is None and bare.feature_names is None
    )
    assert repr(bare) == "Explanation(mine(2, 3) range=[0, 0])"


@pytest.mark.parametrize("i", [3, -4])
def test_sample_that_is_not_there_is_refused(i: int) -> None:
    with pytest.raises(IndexError, match=f"Sample {i} asked for, but this explanation holds 3 samples"):
        made()[i]
    with pytest.raises(IndexError, match="selects none of the 3 samples"):
        made()[5:]


def test_result_cannot_be_changed_by_assignment() -> None:
    with pytest.raises(AttributeError):
        made().method = "other"


# -- reading ---------------------------------------------------------------------------------------------------


def test_relative_delta_is_the_completeness_error() -> None:
    exp = made(convergence_delta=torch.tensor([0.1, 0.0, -0.4]))
    assert torch.allclose(exp.relative_delta, torch.tensor([0.1 / 0.5, 0, 0.4 / 2]))
    assert torch.isfinite(made(baseline_score=made().score, convergence_delta=torch.zeros(3)).relative_delta).all()


@pytest.mark.parametrize(
    ("shape", "inputs"), [((2, 3, 6, 8), (2, 3, 6, 8)), ((2, 1, 2, 2), (2, 3, 6, 8)), ((2, 6, 8), (2, 1, 6, 8))]
)
def test_heatmap_has_the_inputs_size(shape: tuple[int, ...], inputs: tuple[int, ...]) -> None:
    exp = Explanation(attributions=torch.randn(shape, dtype=torch.float64), inputs=torch.zeros(inputs), method="m")
    assert exp.heatmap().shape == (6, 8) and exp.heatmap(1).dtype == np.float32
    if shape == inputs:
        assert np.allclose(exp.heatmap(1), exp.attribution[1].sum(0).numpy(), atol=1e-6)


def test_heatmap_of_a_table_is_refused() -> None:
    exp = Explanation(attributions=torch.zeros(2, 3), inputs=torch.zeros(2, 3), method="m")
    with pytest.raises(InputError, match=r"needs image-like attributions \(N, C, H, W\), got \(2, 3\)"):
        exp.heatmap()


def test_one_line_says_the_important_things() -> None:
    text = repr(made(layer="conv"))
    assert "\n" not in text
    for part in ("integrated_gradients(3, 1, 4, 5)", "layer=conv", "target=cat,True,None", "p=0.1", "score=1",
                 "completeness error=0.2", "range=["):  # fmt: skip
        assert part in text
    assert repr(Explanations([made(), made()])).count("Explanation(") == 2


def test_results_are_found_by_number_name_alias_and_title() -> None:
    exps = Explanations([made(), made(method="occlusion", title="Occlusion"), made(method="Mine", title="Mine")])
    assert exps["occl"] is exps[1] is exps["Occlusion"] is exps[-2]
    assert exps["Mine"] is exps[2] and exps["IG"] is exps[0]
    assert isinstance(exps[:2], Explanations) and len(exps[:2]) == 2
    with pytest.raises(
        UnknownNameError, match=r"Unknown method in this result 'saliency'.*integrated_gradients, occlusion"
    ):
        exps["saliency"]


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attributions": (torch.zeros(3, 2), torch.ones(3, 4)), "inputs": (torch.zeros(3, 2), torch.ones(3, 4))},
        {"attributions": (torch.ones(3, 2),), "inputs": (torch.ones(3, 2),), "baselines": None},
        dict.fromkeys(("target", "prediction", "probability", "score", "baseline_score", "convergence_delta", "names",
                       "tokens", "seed", "seconds")),
        {"attributions": torch.zeros(3, 2, dtype=torch.bfloat16), "inputs": torch.arange(6).reshape(3, 2)},
        {"target": ((0, 1), (slice(1, None), 2), None), "meta": {}, "params": {}},
        {"inputs": torch.zeros(3, 1, 4, 5).expand(3, 1, 4, 5), "attributions": torch.zeros(1).expand(3, 1, 4, 5)},
    ],
    ids=["image", "tuples", "one-tuple", "little known", "dtypes", "odd targets", "expanded"],
)  # fmt: skip
def test_what_is_written_is_read_back(tmp_path: Path, fields: dict[str, Any]) -> None:
    exp = made(**fields)
    path = exp.save(tmp_path / "deep" / "one.safetensors")
    again = Explanation.load(path)
    before, after = fields_of(exp), fields_of(again)
    assert [k for k in before if not equal(before[k], after[k])] == []
    assert [p.name for p in path.parent.iterdir()] == ["one.safetensors"]


def test_several_are_written_to_one_file(tmp_path: Path) -> None:
    exps = Explanations([made(), made(method="occlusion", title="Occlusion")])
    path = exps.save(tmp_path / "many.safetensors")
    assert Explanations.load(path).methods == exps.methods
    with pytest.raises(InputError, match=r"holds 2 explanations; use Explanations\.load"):
        Explanation.load(path)
    exps[:1].save(path)  # over the old one
    assert Explanations.load(path).methods == ["integrated_gradients"]


def test_real_result_survives(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(12, 3))
    exps = explain(model, torch.rand(2, 1, 4, 5), ("ig", "occlusion", "nt"), n_steps=3, nt_samples=2, tol=None)
    again = Explanations.load(exps.save(tmp_path / "x"))
    for a, b in zip(exps, again):
        assert torch.equal(a.attribution, b.attribution) and a.params == b.params and a.target == b.target
        assert a.meta == b.meta and repr(a) == repr(b)


def test_file_is_no_pickle_and_its_metadata_is_json(tmp_path: Path) -> None:
    raw = made().save(tmp_path / "x").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    assert json.loads(header["__metadata__"]["interp_plugins"])["format"] == 2


def write_text(path: Path) -> None:
    path.write_text("not tensors at all")


def write_foreign(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)


def write_other_format(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path, metadata={"interp_plugins": json.dumps({"format": 99, "items": []})})


def write_garbage_metadata(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path, metadata={"interp_plugins": "{"})


def write_half(path: Path) -> None:
    path.write_bytes(made().save(path).read_bytes()[:200])


@pytest.mark.parametrize("write", [write_text, write_foreign, write_other_format, write_garbage_metadata, write_half])
def test_foreign_and_broken_files_are_refused(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "x")
    with pytest.raises(InputError, match="not"):
        Explanation.load(tmp_path / "x")


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No saved explanations at .*nowhere"):
        Explanation.load(tmp_path / "nowhere")


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made().save(tmp_path / "x")
    old = path.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        made(1).save(path)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["x"]


# -- tables ----------------------------------------------------------------------------------------------------


def table(a: Inputs, **fields: Any) -> Any:
    pytest.importorskip("pandas")
    return made(attributions=a, inputs=a, baselines=None, **fields).to_df()


def test_table_has_a_row_per_sample_and_a_column_per_feature() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    df = table(a, spec=InputSpec("tabular", feature_names=("age", "sex")))
    assert list(df["age"]) == [1, 3, 5] and list(df["sex"]) == [2, 4, 6]
    assert list(df["sample"]) == ["0.png", "1.png", "2.png"] and list(df["target_label"]) == ["cat", True, None]
    assert df["relative_delta"].iloc[0] == pytest.approx(0.2)
    unnamed = table(a, spec=InputSpec("tabular"), names=None, score=None)
    assert list(unnamed["feature_1"]) == [2, 4, 6] and list(unnamed["sample"]) == [0, 1, 2]
    assert unnamed["score"].isna().all()


def test_table_of_pictures_sums_up() -> None:
    df = table(torch.full((3, 1, 2, 2), -0.5))
    assert list(df["sum"]) == [-2.0] * 3 and list(df["mean_abs"]) == [0.5] * 3


def test_table_of_several_methods_stacks_them() -> None:
    pytest.importorskip("pandas")
    df = Explanations([made(), made(method="occlusion")]).to_df()
    assert list(df["method"]) == ["integrated_gradients"] * 3 + ["occlusion"] * 3
