"""TCAV: Captum's names and numbers, its faults, and what closed forms make exact."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import captum.concept as peer
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import concept
from interp_plugins.attr import LayerGradientXActivation
from interp_plugins.concept import CAV, TCAV, Classifier, ClosedFormClassifier, Concept, DefaultClassifier
from interp_plugins.concept.significance import compared_with_shuffled
from interp_plugins.concept.vectors import Gram, vectors
from interp_plugins.core.errors import InputError, InterpWarning, LayerError
from interp_plugins.core.report import collect


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(), nn.Linear(8, 5)
    ).eval()


def examples(shift: float = 0.0, n: int = 12, size: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) + shift


def bright_and_dark() -> list[Concept]:
    return [Concept(0, "bright", [examples(0.5)]), Concept(1, "dark", [examples(0.0, seed=1)])]


NAMES = ("CAV", "Concept", "ConceptInterpreter", "TCAV", "Classifier", "DefaultClassifier")
METHODS = {
    "TCAV": (
        "interpret",
        "compute_cavs",
        "load_cavs",
        "generate_activations",
        "generate_activation",
        "generate_all_activations",
    ),
    "CAV": ("save", "load", "assemble_save_path", "create_cav_dir_if_missing"),
    "Classifier": ("train_and_eval", "weights", "classes"),
    "DefaultClassifier": ("train_and_eval", "weights", "classes"),
    "Concept": (),
    "ConceptInterpreter": (),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_signatures_are_captums(name: str) -> None:
    ours, theirs = getattr(concept, name), getattr(peer, name)
    for method in ("__init__", *METHODS[name]):
        own, known = (inspect.signature(getattr(c, method)).parameters for c in (ours, theirs))
        more = {p for p in own if p not in known}
        assert more <= {"pool", "seed"} and all(own[p].kind is inspect.Parameter.KEYWORD_ONLY for p in more)
        kept = [p for p in own if p not in more]
        assert kept == list(known) and [own[p].default for p in kept] == [known[p].default for p in known]


class Means(Classifier, peer.Classifier):
    """One classifier for both: each concept's mean, less that of all."""

    def __init__(self) -> None:
        pass

    def train_and_eval(self, dataloader: Any, **kwargs: Any) -> None:
        x, y = (torch.cat(column) for column in zip(*dataloader, strict=True))
        self.found = y.unique()
        self.means = torch.stack([x[y == c].mean(0) for c in self.found]) - x.mean(0)

    def weights(self) -> Tensor:
        return self.means

    def classes(self) -> Any:
        return self.found.tolist()


@pytest.mark.parametrize("side", [False, True])
def test_scores_are_captums_for_one_classifier(tmp_path: Path, side: bool) -> None:
    model, x = net(), examples(n=20, seed=3)
    ours, theirs = bright_and_dark(), [peer.Concept(c.id, c.name, c.data_iter) for c in bright_and_dark()]
    options: dict[str, Any] = {"classifier": Means(), "attribute_to_layer_input": side}
    found = TCAV(model, ["1", "3"], save_path=None, **options).interpret(x, [ours], target=2)
    known = peer.TCAV(model, ["1", "3"], save_path=str(tmp_path), **options).interpret(x, [theirs], target=2)
    for layer in ("1", "3"):
        assert torch.equal(found["0-1"][layer]["sign_count"], known["0-1"][layer]["sign_count"])
        cav = peer.CAV.load(str(tmp_path), "default_model_id", theirs, layer)
        length = cav.stats["weights"].norm(dim=1)
        assert torch.allclose(found["0-1"][layer]["magnitude"] * length, known["0-1"][layer]["magnitude"], atol=1e-6)


# -- Captum's faults -------------------------------------------------------------------------------------------------


def test_new_weights_and_new_examples_make_new_vectors(tmp_path: Path) -> None:
    model, concepts = net(), bright_and_dark()
    first = TCAV(model, "1", save_path=str(tmp_path)).compute_cavs([concepts])["0-1"]["1"]
    again = TCAV(model, "1", save_path=str(tmp_path))
    assert again.load_cavs(concepts) == ([], {}) and again.cavs["0-1"]["1"].key == first.key
    with torch.no_grad():
        model[0].weight.neg_()
    layers, missing = again.load_cavs(concepts)
    assert layers == ["1"] and missing == {c: ["1"] for c in concepts}
    changed = TCAV(model, "1", save_path=str(tmp_path)).compute_cavs([concepts])["0-1"]["1"]
    assert not torch.allclose(changed.stats["weights"], first.stats["weights"])
    fewer = [Concept(0, "bright", [examples(0.5)[:4]]), concepts[1]]
    smaller = TCAV(model, "1", save_path=str(tmp_path)).compute_cavs([fewer], force_train=True)["0-1"]["1"]
    alone = TCAV(model, "1", save_path=None).compute_cavs([fewer])["0-1"]["1"]
    assert torch.equal(smaller.stats["weights"], alone.stats["weights"])


def test_the_same_data_give_the_same_numbers_and_the_generators_stay() -> None:
    pytest.importorskip("sklearn.linear_model")  # its import draws
    model, x = net(), examples(n=20, seed=3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for classifier in (None, DefaultClassifier()):
        runs = [
            TCAV(model, "1", classifier=classifier, save_path=None).interpret(x, [bright_and_dark()], target=1)
            for _ in range(2)
        ]
        for kind in ("sign_count", "magnitude"):
            assert torch.equal(runs[0]["0-1"]["1"][kind], runs[1]["0-1"]["1"][kind])
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert states[2] == random.getstate()


def smooth() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)).eval()


def test_p_values_of_random_against_random_are_uniform() -> None:
    model, x = smooth(), torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    read = LayerGradientXActivation(model, "1", multiply_by_inputs=False)
    grads, draw = read.attribute(x, target=1), torch.Generator().manual_seed(5)
    ps = []
    for _ in range(200):
        a, b = model[:2](torch.randn(24, 6, generator=draw)).detach().split(12)
        ps.append(compared_with_shuffled([("a", "1", a, b, grads)], "mean", 2, 99, 0)[0].p)
    ordered = np.sort(ps)
    gap = max(np.abs(ordered - np.arange(1, 201) / 200).max(), np.abs(ordered - np.arange(200) / 200).max())
    assert gap < 1.63 / np.sqrt(200) + 0.01  # Kolmogorov-Smirnov at p = .01, and the step of 99 permutations


def test_random_scores_are_anything_and_the_null_interval_says_so() -> None:
    model, x = smooth(), torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    with collect() as report:
        TCAV(model, "3", save_path=None).interpret(
            x, [[Concept(0, "a", [torch.randn(9, 6)]), Concept(1, "b", [torch.randn(9, 6)])]], target=1
        )
    low, high = report["tcav_null"]["0-1"]["3"]
    assert high - low > 0.3


def test_batch_norm_and_mode_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    TCAV(model, "2", save_path=None).interpret(examples(), [bright_and_dark()], target=0)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_magnitude_is_of_a_vector_of_length_one() -> None:
    class Longer(ClosedFormClassifier):
        def weights(self) -> Tensor:
            return 11.3 * super().weights()

    model, x = net(), examples(n=20, seed=3)
    found = [
        TCAV(model, "1", classifier=c, save_path=None).interpret(x, [bright_and_dark()], target=1)["0-1"]["1"]
        for c in (ClosedFormClassifier(), Longer())
    ]
    assert torch.allclose(found[0]["magnitude"], found[1]["magnitude"])


def test_nothing_is_written_without_a_folder_and_no_activations_with_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    TCAV(net(), "1", save_path=None).interpret(examples(), [bright_and_dark()], target=1)
    assert not list(tmp_path.iterdir())
    TCAV(net(), "1").interpret(examples(), [bright_and_dark()], target=1)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["0-1-1.pkl"]


def test_dicts_tuples_and_texts_of_any_length_are_examples() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look, self.out = nn.Embedding(20, 6), nn.Linear(6, 3)

        def forward(self, ids: Tensor, weight: Tensor | None = None) -> Tensor:
            z = self.look(ids)
            return self.out((z if weight is None else z * weight[..., None]).mean(1).tanh())

    model = Reads().eval()
    short, long = torch.randint(0, 20, (6, 4)), torch.randint(0, 20, (6, 9))
    with pytest.warns(InterpWarning, match="pooled by its mean over places, since examples differ in size"):
        found = TCAV(model, "look", save_path=None).interpret(
            short, [[Concept(0, "short", [short, long]), Concept(1, "long", [long])]], target=1
        )
    assert found["0-1"]["look"]["sign_count"].shape == (2,)
    by_name = [Concept(0, "a", [{"ids": short}]), Concept(1, "b", [(long[:, :4],)])]
    one = TCAV(model, "look", save_path=None).interpret({"ids": short}, [by_name], target=1)
    plain = [Concept(0, "a", [short]), Concept(1, "b", [[long[:, :4], torch.zeros(6)]])]
    two = TCAV(model, "look", save_path=None).interpret(short, [plain], target=1)
    assert torch.equal(one["0-1"]["look"]["magnitude"], two["0-1"]["look"]["magnitude"])


def test_concepts_are_the_same_by_value() -> None:
    tcav = TCAV(net(), "1", save_path=None)
    first, second = bright_and_dark(), bright_and_dark()
    tcav.compute_cavs([first])
    assert tcav.load_cavs(second) == ([], {})
    loader = DataLoader(TensorDataset(examples(0.5)), batch_size=5, shuffle=True)
    shuffled = [Concept(0, "bright", loader), second[1]]
    tcav.compute_cavs([shuffled])
    assert tcav.load_cavs(shuffled) == ([], {})
    with pytest.raises(InputError, match="two concepts with id 0"):
        tcav.compute_cavs([[Concept(0, "other", [examples()]), second[1]]])


def test_activations_at_hand_are_found_and_used() -> None:
    tcav, concepts = TCAV(net(), "1", save_path=None), bright_and_dark()
    tcav.generate_activation("1", concepts[0])
    assert tcav.load_cavs(concepts) == (["1"], {concepts[1]: ["1"]})
    tcav.generate_all_activations()
    assert tcav.load_cavs(concepts) == (["1"], {})


# -- closed forms ----------------------------------------------------------------------------------------------------


def test_dual_ridge_is_the_primal_and_leaving_out_is_refitting() -> None:
    z, labels = torch.randn(14, 30, dtype=torch.float64), torch.arange(14) % 2
    gram = Gram.of(z)
    found, _ = vectors(z, labels, torch.tensor([0, 1]), "ridge")
    y = torch.where(labels == 0, 1.0, -1.0).double()
    centred = z - z.mean(0)
    primal = torch.linalg.solve(
        centred.T @ centred + gram.penalty * torch.eye(30, dtype=torch.float64), centred.T @ (y - y.mean())
    )
    assert torch.allclose(found[0], primal, atol=1e-10)
    left = gram.left_out(y[:, None])[:, 0]
    for i in range(14):
        rest = torch.arange(14) != i
        zc, yc = z[rest] - z[rest].mean(0), y[rest] - y[rest].mean()
        w = torch.linalg.solve(zc.T @ zc + gram.penalty * torch.eye(30, dtype=torch.float64), zc.T @ yc)
        assert abs(float((z[i] - z[rest].mean(0)) @ w + y[rest].mean() - left[i])) < 1e-10


@pytest.mark.parametrize("direction", ["mean", "ridge"])
def test_rotating_the_layer_changes_nothing(direction: str) -> None:
    model, x = smooth().double(), torch.randn(20, 6, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64)).Q
    first, second = nn.Linear(24, 24, bias=False).double(), nn.Linear(24, 24, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(turn)
        second.weight.copy_(turn.T)
    turned = nn.Sequential(model[:2], first, second, model[2:]).eval()
    sets = [Concept(0, "a", [torch.randn(9, 6).double() + 1]), Concept(1, "b", [torch.randn(9, 6).double()])]
    rows = []
    for net_, layer in ((model, "1"), (turned, "1")):
        tcav = TCAV(net_, layer, classifier=ClosedFormClassifier(direction), save_path=None)
        found = tcav.interpret(x, [sets], target=1)["0-1"][layer]
        tested = tcav.test(x, sets[0], sets[1], 1, permutations=99)[0]
        rows.append(
            (*found["sign_count"].tolist(), *found["magnitude"].tolist(), tested.p, tested.accuracy, tested.stability)
        )
    assert np.allclose(rows[0], rows[1], atol=1e-6)


def test_of_a_linear_model_the_score_is_the_sign_of_weight_along_vector() -> None:
    model, x = nn.Linear(6, 4), torch.randn(7, 6)
    whole = nn.Sequential(nn.Identity(), model).eval()
    sets = [Concept(0, "a", [torch.randn(9, 6) + 0.3]), Concept(1, "b", [torch.randn(9, 6)])]
    tcav = TCAV(whole, "0", save_path=None)
    for c in range(4):
        found = tcav.interpret(x, [sets], target=c)["0-1"]["0"]["sign_count"][0]
        vector = torch.as_tensor(tcav.cavs["0-1"]["0"].stats["weights"])[0]
        assert float(found) == float(vector @ model.weight[c] > 0)


def test_a_planted_concept_is_found_and_told_from_its_absence() -> None:
    draw = torch.Generator().manual_seed(2)
    pictures = lambda n: torch.rand(n, 1, 8, 8, generator=draw)  # noqa: E731
    model = nn.Sequential(nn.Conv2d(1, 2, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    with torch.no_grad():  # the block in the corner, and it alone, decides for class 1
        model[0].weight.copy_(torch.cat([torch.full((1, 1, 4, 4), 1 / 16), torch.full((1, 1, 4, 4), -1 / 16)]))
        model[3].weight.zero_()
        model[3].weight[1, 0], model[3].weight[0, 0] = 4.0, -4.0
    with_block = pictures(20)
    with_block[:, :, :4, :4] = 0.9 + 0.1 * with_block[:, :, :4, :4]
    tcav = TCAV(model, "1", save_path=None)
    sets = Concept(0, "block", [with_block]), Concept(1, "random", [pictures(20)])
    yes, no = (tcav.test(pictures(16), *sets, target=c)[0] for c in (1, 0))
    assert yes.score > 0.95 and yes.p < 0.01 and no.score < 0.05 and no.p < 0.01 and yes.accuracy > 0.9
    assert not yes.unstable and "block" in repr(tcav.test(pictures(4), *sets, target=1))


def test_holm_covers_layers_and_concepts() -> None:
    tcav, x = TCAV(smooth(), ["1", "3"], save_path=None), torch.randn(10, 6)
    many = [Concept(i, f"c{i}", [torch.randn(8, 6) + i]) for i in range(2)]
    found = tcav.test(x, many, Concept(9, "random", [torch.randn(12, 6)]), 1, permutations=99)
    assert len(found) == 4 and all(r.p_holm >= r.p for r in found)
    assert list(found.to_df()["layer"]) == ["1", "3", "1", "3"]


# -- pooling, classifiers, files, errors -----------------------------------------------------------------------------


def test_large_layers_are_pooled_and_it_is_said() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 2)
    ).eval()
    sets = [[Concept(0, "a", [torch.rand(3, 3, 52, 52)]), Concept(1, "b", [torch.rand(3, 3, 52, 52)])]]
    tcav = TCAV(model, "0", save_path=None)
    with pytest.warns(InterpWarning, match="54,080 numbers per example"):
        tcav.interpret(torch.rand(2, 3, 52, 52), sets, target=1)
    assert tcav.cavs["0-1"]["0"].stats["weights"].shape == (2, 20)
    kept = TCAV(model, "0", save_path=None, pool="none").compute_cavs(sets)["0-1"]["0"]
    assert kept.stats["weights"].shape == (2, 54080)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_along_a_pooled_vector_every_place_moves(pool: str) -> None:
    model, x = net().double().requires_grad_(False), examples(n=4).double()
    sets = [Concept(0, "a", [examples(0.5).double()]), Concept(1, "b", [examples(seed=1).double()])]
    tcav = TCAV(model, "0", save_path=None, pool=pool)
    found = tcav.interpret(x, [sets], target=2)["0-1"]["0"]["magnitude"][0]
    vector = torch.as_tensor(tcav.cavs["0-1"]["0"].stats["weights"])[0].double()
    step = 1e-6 * (vector / vector.norm())[None, :, None, None]
    changed = model[1:](model[0](x) + step)[:, 2] - model[1:](model[0](x))[:, 2]
    assert abs(float(changed.mean() / 1e-6 - found)) < 1e-6


def test_layers_may_be_modules_and_sets_of_any_size() -> None:
    model = net()
    tcav = TCAV(model, [model[1], model[3]], save_path=None)
    three = [*bright_and_dark(), Concept(2, "third", [examples(0.2, seed=2)])]
    found = tcav.interpret(examples(), [three, three[:2]], target=1)
    assert tcav.layers == ["1", "3"] and found["0-1-2"]["1"]["sign_count"].shape == (3,)
    assert set(found) == {"0-1-2", "0-1"}


@pytest.mark.filterwarnings("ignore")  # Captum's
def test_captums_files_are_read_and_an_order_of_batches_is_no_other_concept(tmp_path: Path) -> None:
    theirs = [peer.Concept(c.id, c.name, c.data_iter) for c in bright_and_dark()]
    peer.TCAV(net(), "1", save_path=str(tmp_path)).compute_cavs([theirs])
    read = CAV.load(str(tmp_path), "default_model_id", bright_and_dark(), "1")
    assert read is not None and read.key is None and read.stats["weights"].shape == (2, 144)
    whole, cut = examples(0.5), [Concept(0, "bright", list(examples(0.5).split(5))), bright_and_dark()[1]]
    tcav = TCAV(net(), "1", save_path=None)
    tcav.compute_cavs([[Concept(0, "bright", [whole]), cut[1]]])
    assert tcav.load_cavs(cut) == ([], {})


def test_wrong_questions_are_refused() -> None:
    model, concepts = net(), bright_and_dark()
    with pytest.raises(LayerError, match="No layer named 'conv'"):
        TCAV(model, "conv")
    tcav = TCAV(model, "1", save_path=None)
    with pytest.raises(InputError, match="has no examples"):
        tcav.compute_cavs([[Concept(0, "bright", None), concepts[1]]])
    with pytest.raises(InputError, match="at least two concepts"):
        tcav.interpret(examples(), [concepts[:1]])
    with pytest.raises(InputError, match="two examples each"):
        tcav.compute_cavs([[Concept(0, "bright", [examples(n=1)]), concepts[1]]])
    with pytest.raises(InputError, match="permutations must be"):
        tcav.test(examples(), *concepts, target=1, permutations=3)
    with pytest.raises(InputError, match="when TCAV is made"):
        tcav.interpret(examples(), [concepts], target=1, attribute_to_layer_input=True)
    with pytest.raises(InputError, match="pool must be"):
        TCAV(model, "1", pool="sum")
    with pytest.raises(InputError, match="kept in memory"):
        tcav.compute_cavs([concepts])["0-1"]["1"].save()
