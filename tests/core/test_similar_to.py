"""`SimilarTo`: likeness to an anchor as a target, against closed forms and autograd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import Contrast, Explanation, InputSpec, SimilarTo, explain
from interp_plugins.attr import IntegratedGradients, Saliency
from interp_plugins.core.errors import InputTypeError, InterpWarning, TargetError, UnknownNameError
from interp_plugins.core.target import Probability
from interp_plugins.store.fingerprint import described


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 4, bias=False).double()


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 4))
    return nn.Sequential(*layers).double().train()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def anchors(k: int) -> Tensor:
    return torch.randn(k, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def gradient(net: nn.Module, x: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(net(x)).sum(), x)[0]


def close(a: Any, b: Tensor, tolerance: float = 1e-12) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance


def slow_cosine(output: Tensor, anchor: Tensor) -> Tensor:
    return (output * anchor).sum(1) / ((output**2).sum(1) * (anchor**2).sum(-1)).sqrt()


def test_dot_of_a_linear_embedding_has_the_anchor_taken_back_as_gradient(linear: nn.Linear, x: Tensor) -> None:
    anchor = anchors(1)[0]
    found = explain(linear, x, "saliency", target=SimilarTo(anchor, by="dot"), abs=False)[0]
    assert close(found.attribution, (linear.weight.T @ anchor).detach().expand(3, 5))
    assert close(found.score, (linear(x) @ anchor).detach())


def test_dot_with_an_anchor_per_sample(linear: nn.Linear, x: Tensor) -> None:
    found = explain(linear, x, "ig", target=SimilarTo(anchors(3), by="dot"), n_steps=4)[0]
    assert close(found.attribution, (x * (anchors(3) @ linear.weight)).detach())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("by", ["cosine", "dot", "distance"])
def test_gradients_are_autograds(net: nn.Module, x: Tensor, by: str, per_sample: bool) -> None:
    anchor = anchors(3) if per_sample else anchors(1)[0]
    slow: dict[str, Callable[[Tensor], Tensor]] = {
        "cosine": lambda out: slow_cosine(out, anchor),
        "dot": lambda out: (out * anchor).sum(1),
        "distance": lambda out: -(out - anchor).norm(dim=1),
    }
    found = explain(net, x, "saliency", target=SimilarTo(anchor, by), abs=False)[0]
    assert net.training
    assert close(found.attribution, gradient(net.eval(), x, slow[by]))
    assert close(found.score, slow[by](net(x)).detach())


def test_integrated_gradients_add_up_to_the_change_of_the_cosine(net: nn.Module, x: Tensor) -> None:
    found = explain(net, x, "ig", target=SimilarTo(anchors(3)), n_steps=200)[0]
    assert found.relative_delta is not None and float(found.relative_delta.max()) < 1e-4


@pytest.mark.parametrize("method", ["occlusion", "kernel_shap", "feature_ablation"])
def test_perturbations_see_each_samples_own_anchor(net: nn.Module, x: Tensor, method: str) -> None:
    more = {"sliding_window_shapes": (1,)} if method == "occlusion" else {}
    whole = explain(net, x, method, target=SimilarTo(anchors(3)), perturbations_per_eval=2, **more)[0]
    for i in range(3):
        alone = explain(net, x[i : i + 1], method, target=SimilarTo(anchors(3)[i]), **more)[0]
        assert whole.score is not None and alone.score is not None
        assert close(whole.score[i : i + 1], alone.score)
        if method != "kernel_shap":  # whose draws belong to the whole batch
            assert close(whole.attribution[i : i + 1], alone.attribution)


def test_without_explain_as_a_target_of_a_method(net: nn.Module, x: Tensor) -> None:
    found = Saliency(net.eval()).attribute(x, target=SimilarTo(anchors(1), "dot"), abs=False)
    assert close(found, gradient(net, x, lambda out: out @ anchors(1)[0]))
    IntegratedGradients(net).attribute(x, target=SimilarTo(anchors(3)), n_steps=3, internal_batch_size=2)


def test_of_asks_the_model_once_and_leaves_it(net: nn.Module, x: Tensor) -> None:
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    target = SimilarTo.of(net, x[:1])
    assert net.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert close(target.anchor, net.eval()(x[:1]).detach()[0]) and not target.anchor.requires_grad


def test_of_takes_what_the_model_takes(x: Tensor) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
            return {"embedding": (a + b) * scale, "other": a}

    target = SimilarTo.of(Two(), (x, 2 * x), output="embedding", forward_kwargs={"scale": 2.0})
    assert close(target.anchor, 6 * x)
    found = explain(Two(), (x, x), "ig", target=SimilarTo(x[:1], "dot"), output="embedding", n_steps=2)[0]
    assert close(found.score, 2 * x @ x[0])


def test_of_a_gallery_cut_in_chunks_is_that_of_the_whole(net: nn.Module) -> None:
    gallery = torch.randn(300, 5, dtype=torch.float64)
    assert close(SimilarTo.of(net, gallery).anchor, net.eval()(gallery).detach())


def test_each_is_an_explanation_per_anchor_from_shared_passes(net: nn.Module, x: Tensor) -> None:
    for given in (anchors(2), list(anchors(2)), {"cup": anchors(2)[0], "cat": anchors(2)[1]}):
        names = None if isinstance(given, dict) else ["cup", "cat"]
        exps = explain(net, x, "saliency", target=SimilarTo.each(given, names=names))
        assert [e.target_label for e in exps] == [("similar to cup",) * 3, ("similar to cat",) * 3]
        assert exps[0].meta["shared_by_targets"] == 2
        for k, exp in enumerate(exps):
            alone = explain(net, x, "saliency", target=SimilarTo(anchors(2)[k]))[0]
            assert close(exp.attribution, alone.attribution)


def test_more_like_this_than_like_that(net: nn.Module, x: Tensor) -> None:
    a, b = (SimilarTo(anchor, "dot", name) for anchor, name in zip(anchors(2), ["a cat", "a dog"]))
    found = explain(net, x, "saliency", target=Contrast(a, b), abs=False)[0]
    assert close(found.attribution, gradient(net.eval(), x, lambda out: out @ (anchors(2)[0] - anchors(2)[1])))
    assert found.target_label == ("dot product with a cat rather than dot product with a dog",) * 3
    assert found.prediction is None


def test_labels_say_measure_and_anchor(net: nn.Module, x: Tensor) -> None:
    assert SimilarTo(anchors(1)).describe(0) == "similar to the anchor"
    named = SimilarTo(anchors(3), "distance", ["p", "q", "r"])
    assert explain(net, x, "saliency", target=named)[0].target_label == ("near p", "near q", "near r")
    assert named.at(torch.tensor([2, 0])).describe(0) == "near r"
    assert repr(named) == "SimilarTo(an anchor of shape (3, 4), by='distance')"


def test_an_embedding_is_not_taken_for_classes(net: nn.Module, x: Tensor) -> None:
    for target in (
        SimilarTo(anchors(1)),
        SimilarTo.each(anchors(2)),
        Probability(SimilarTo(anchors(1)), nn.Identity()),
    ):
        found = explain(net, x, "saliency", target=target)[0]
        assert (found.prediction, found.prediction_label, found.probability) == (None, None, None)
        assert "classes" not in found.meta
    spec = InputSpec("tabular", vocab=tuple("abcd"))  # logits as an embedding: with an activation they stay classes
    for more in ({"activation": lambda out: out.softmax(1)}, {"target": [SimilarTo(anchors(1)), 0]}):
        asked: dict[str, Any] = {"target": SimilarTo(anchors(1)), **more}
        assert explain(net, x, "saliency", input_spec=spec, **asked)[0].prediction_label is not None


def test_half_precision_is_measured_in_float32(x: Tensor) -> None:
    big = torch.full((1, 2048), 20.0, dtype=torch.float16)  # the dot product, 819200, is beyond half precision
    assert float(SimilarTo(big[0], "dot")(big)) == 819200.0
    assert float(SimilarTo(big[0].bfloat16())(big.bfloat16())) == pytest.approx(1.0, abs=1e-6)


def test_whole_numbers_and_one_row_are_anchors(net: nn.Module, x: Tensor) -> None:
    bits = torch.tensor([1, 0, 1, 1])
    assert close(SimilarTo(bits, "dot")(net.eval()(x)), net(x) @ bits.double(), 1e-6)
    assert close(SimilarTo(anchors(1))(net(x)), SimilarTo(anchors(1)[0])(net(x)))


def test_the_anchor_is_a_constant(net: nn.Module, x: Tensor) -> None:
    mine = anchors(1)[0].requires_grad_()
    target = SimilarTo(mine, "dot")
    with torch.no_grad():
        mine.zero_()
    assert not target.anchor.requires_grad and bool((target.anchor != 0).all())


@pytest.mark.parametrize("by", ["cosine", "distance"])
def test_a_sample_that_is_its_own_anchor_is_told(net: nn.Module, x: Tensor, by: str) -> None:
    with pytest.warns(InterpWarning, match="Sample 0 has the anchor's own embedding.*integrated gradients"):
        found = explain(net, x, "saliency", target=SimilarTo.of(net, x[:1], by))[0]
    assert float(found.attribution[0].abs().max()) < 1e-7 < float(found.attribution[1].abs().max())


@pytest.mark.parametrize(
    ("anchor", "more", "error", "text"),
    [
        ([1.0, 2.0], {}, InputTypeError, "must be a tensor of real numbers"),
        (torch.ones(4, dtype=torch.complex64), {}, InputTypeError, "real numbers"),
        (torch.ones(2, 3, 4), {}, TargetError, r"shape \(2, 3, 4\); expected an embedding \(D,\)"),
        (torch.ones(()), {}, TargetError, r"shape \(\)"),
        (torch.ones(0), {}, TargetError, r"shape \(0,\)"),
        (torch.tensor([1.0, float("nan")]), {}, TargetError, "NaN or infinity"),
        (torch.zeros(4), {}, TargetError, 'Give by="dot"'),
        (torch.stack([torch.ones(4), torch.zeros(4)]), {}, TargetError, "zero everywhere"),
        (torch.ones(4), {"by": "cosin"}, UnknownNameError, "Did you mean 'cosine'"),
        (torch.ones(2, 4), {"name": ["a"]}, TargetError, r"1 names came for 2 anchor\(s\)"),
        (torch.ones(4), {"name": ["a", "b"]}, TargetError, "2 names came for 1"),
    ],
)
def test_anchors_that_are_none(anchor: Any, more: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SimilarTo(anchor, **more)


def test_shapes_that_do_not_fit_the_model(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(TargetError, match=r"\(7,\) does not fit the model's embeddings of shape \(3, 4\)"):
        explain(net, x, "saliency", target=SimilarTo(torch.ones(7)))
    with pytest.raises(
        TargetError, match=r"expected \(4,\) for all samples, or \(3, 4\), one for each.*each\(anchors\)"
    ):
        explain(net, x, "saliency", target=SimilarTo(torch.ones(2, 4)))
    maps = nn.Conv2d(1, 2, 3)
    with pytest.raises(TargetError, match=r"\(2, 2, 3, 3\). Give output= a function"):
        explain(maps, torch.rand(2, 1, 5, 5), "saliency", target=SimilarTo(torch.ones(2)))
    with pytest.raises(TargetError, match="Give output="):
        SimilarTo.of(maps, torch.rand(2, 1, 5, 5))
    with pytest.raises(TargetError, match="1 names came for 2 anchors"):
        SimilarTo.each(anchors(2), names=["a"])
    with pytest.raises(TargetError, match="0 names came for 0 anchors"):
        SimilarTo.each([])


def test_tokens_become_an_embedding_by_output() -> None:
    words = nn.Embedding(9, 4).double()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    target = SimilarTo(anchors(1), "dot")
    found = explain(words, ids, "input_x_gradient", target=target, output=lambda out: out.mean(1))[0]
    assert close(found.attribution, (words(ids) @ anchors(1)[0] / 3).detach())


def test_runs_tell_anchors_apart() -> None:
    one, same, other = (
        described(SimilarTo(anchors(1))),
        described(SimilarTo(anchors(1))),
        described(SimilarTo(anchors(3))),
    )
    assert one == same != other
    assert described(SimilarTo(anchors(1), "dot")) != one


def test_a_saved_explanation_says_what_was_asked(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    found = explain(net, x, "saliency", target=SimilarTo(anchors(1), name="a cup"))[0]
    found.save(tmp_path / "found.safetensors")
    assert Explanation.load(tmp_path / "found.safetensors").target_label == ("similar to a cup",) * 3
