"""Stored maps judged by metrics: unit by unit, resumed, shared, and the same as when they are judged at once."""

import pytest
import torch
from typer.testing import CliRunner

import interp_plugins as ip
from interp_plugins.cli import app
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.target import Probability
from interp_plugins.store import ExplanationStore, StoreError, explain_dataset, judging

pytest.importorskip("pyarrow")
METHODS = {"ig": {"n_steps": 5}, "saliency": {}}
METRICS = ["gini_index", "srg", "sensitivity_avg", "consistency_classes"]


def same(one, other):
    assert list(one) == list(other)
    return all(torch.equal(one[k].values.nan_to_num(9.0), other[k].values.nan_to_num(9.0)) for k in one)


@pytest.fixture(scope="module")
def judged(tmp_path_factory, new_net, pictures, spec):
    """A run of two methods, the model, the pictures, and the scores of all."""
    net, data = new_net().eval(), pictures()
    path = tmp_path_factory.mktemp("judged") / "run"
    store = explain_dataset(net, data, path, METHODS, target="label", unit_size=4, input_spec=spec, progress=False)
    return store, net, data, store.evaluate(METRICS, model=net, controls=["control.random"])


def test_stored_maps_get_the_scores_of_maps_that_were_just_made(judged, spec):
    _, net, data, scores = judged
    now = ip.evaluate(
        net,
        data.x,
        METHODS,
        METRICS,
        target=torch.tensor(data.y),
        controls=["control.random"],
        input_spec=spec,
    )
    assert same(scores, now)
    metrics = [name for name in now.rows.rows if name in METRICS]
    assert {name: scores.rows.rows[name] for name in metrics} == {name: now.rows.rows[name] for name in metrics}
    assert scores["saliency", "srg"].n == 11 and scores["control.random", "srg"].chance == 0


def test_an_interrupted_evaluation_goes_on_and_a_done_one_is_read(judged, monkeypatch):
    store, net, _, scores = judged
    calls, plain = [], judging._judge

    def stopping(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(judging, "_judge", stopping)
    assert same(store.evaluate(METRICS, model=net, controls=["control.random"]), scores) and not calls
    with pytest.raises(KeyboardInterrupt):
        store.evaluate(["gini_index", "entropy"])
    found = store.evaluate(["gini_index", "entropy"])
    assert len(calls) == 2 + 2 and found["saliency", "entropy"].n == 11


def test_processes_share_the_units_and_a_damaged_part_is_done_again(judged):
    store, _, _, _ = judged
    first = store.evaluate("effective_size", rank=1, world_size=2)
    assert first["saliency", "effective_size"].ids == (4, 5, 6, 7)
    whole = store.evaluate("effective_size", rank=0, world_size=2)
    assert whole["saliency", "effective_size"].n == 11
    part = next(
        p for p in (store.path / "scores").rglob("part-00000001.parquet") if "effective_size" in str(p.read_bytes())
    )
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(bytes(content))
    with pytest.warns(InterpWarning, match="done again"):
        assert same(store.evaluate("effective_size"), whole)


def test_a_selection_masks_and_further_targets(judged, tmp_path, spec):
    store, net, data, _ = judged
    masks = torch.zeros(11, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    some = store.where(label="dog").evaluate("relevance_mass", masks=masks)
    assert some["saliency", "relevance_mass"].ids == (1, 4, 7, 10)
    by_number = {i: masks[i] for i in range(11)}
    assert same(store.where(label="dog").evaluate("relevance_mass", masks=by_number), some)
    with pytest.raises(InputError, match="no mask or truth for sample 4"):
        store.where(label="dog").evaluate("relevance_mass", masks={1: masks[1]})
    two = explain_dataset(net, data, tmp_path / "two", "saliency", target=[0, 1], n_samples=3, input_spec=spec)
    found = two.evaluate("srg", model=net, controls=["control.input"])
    assert len(found.methods) == 4 and {s.n for s in found.values()} == {3}
    assert not torch.equal(found["control.input", "srg"].values, found["control.input 2", "srg"].values)


def test_what_is_wrong_is_said(judged, new_net, tmp_path, spec):
    store, net, data, _ = judged
    assert store.evaluate().metrics == ["gini_index"], "srg asks a model"
    with pytest.raises(InputError, match="asks the model, and none was given"):
        store.evaluate("srg")
    with pytest.raises(InputError, match="its weights differ"):
        store.evaluate("srg", model=new_net(5).eval())
    with pytest.raises(InputError, match="is no control"):
        store.evaluate("gini_index", controls=["control.nothing"])
    with pytest.raises(InputError, match="was explained"):
        store.evaluate("srg", model=net, target=[Probability(1)])
    bare = explain_dataset(net, data, tmp_path / "bare", "saliency", save_inputs=False, n_samples=2, input_spec=spec)
    with pytest.raises(StoreError, match="keeps no inputs"):
        bare.evaluate("gini_index")


def test_the_command(judged, tmp_path, monkeypatch):
    store = judged[0]
    code = "from tests.store.conftest import make_net\n\ndef model():\n    return make_net().eval()\n"
    (tmp_path / "my_net.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    page = tmp_path / "scores.html"
    options = ["--metric", "srg", "--model", "my_net:model", "--control", "control.random", "--out", str(page)]
    found = CliRunner().invoke(app, ["evaluate", str(store.path), *options])
    assert found.exit_code == 0, found.output
    assert "saliency" in found.output and "srg" in found.output and page.stat().st_size > 5000
    wrong = CliRunner().invoke(app, ["evaluate", str(store.path), "--out", "scores.txt"])
    assert wrong.exit_code == 2 and ".html, .csv or .json" in wrong.output
    assert CliRunner().invoke(app, ["evaluate", str(tmp_path)]).exit_code == 2
    assert isinstance(ExplanationStore(store.path), ExplanationStore)


def test_the_command_speaks_of_its_options(judged):
    found = CliRunner().invoke(app, ["evaluate", str(judged[0].path), "--metric", "srg"])
    assert found.exit_code == 2 and "give the one that was explained as --model." in " ".join(found.output.split())
