"""The registry: every method by its name, its aliases, its class name, in any spelling."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import interp_plugins
from interp_plugins import attr, explain
from interp_plugins.api.binding import (
    DEFAULT_METHODS,
    DEFAULT_METHODS_OF_ROWS,
    canonical_name,
    list_methods,
    method_info,
)
from interp_plugins.attr import IntegratedGradients, LayerGradCam
from interp_plugins.attr.shared.names import MethodName
from interp_plugins.core import registry
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.registry import (
    GAMES,
    Traits,
    arguments_of,
    contract_of,
    family,
    info_of,
    inner_method,
    innermost_method,
    register,
    traits_of,
    variant,
)

PACKAGE = Path(interp_plugins.__file__).parent


@pytest.mark.parametrize("name", list_methods())
def test_method_answers_to_all_its_names(name: str) -> None:
    info = method_info(name)
    for alias in (name, *info.aliases, info.cls.__name__, name.upper(), name.replace("_", "-"), info.title):
        assert canonical_name(alias) == name
    assert info_of(info.cls) is info
    assert info.title and info.needs in ("gradient", "perturbation", "forward")
    assert info.cls.__doc__ and info.cls.attribute.__doc__


@pytest.mark.parametrize(
    ("alias", "name"),
    [("ig", "integrated_gradients"), ("NT", "noise_tunnel"), ("Occl", "occlusion"), ("GradCAM", "grad_cam"),
     ("grad-cam", "grad_cam"), ("LayerGradCam", "grad_cam"), ("Integrated Gradients", "integrated_gradients")],
)  # fmt: skip
def test_common_short_names_are_known(alias: str, name: str) -> None:
    assert canonical_name(alias) == name


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown method 'occlusoin'\. Did you mean 'occlusion'"):
        method_info("occlusoin")
    assert canonical_name("occlusoin", default="mine") == "mine"


def test_list_is_sorted_and_filtered() -> None:
    assert interp_plugins.list_methods() == sorted(list_methods())
    assert "occlusion" in list_methods(needs="perturbation")
    assert "occlusion" not in list_methods(needs="gradient")
    assert "grad_cam" in list_methods(layer=True) and "grad_cam" not in list_methods(layer=False)
    assert set(list_methods(site="neuron")) == {n for n in list_methods() if n.startswith("neuron_")}
    by_site = [name for site in ("input", "layer", "neuron") for name in list_methods(site=site)]
    assert sorted(by_site) == list_methods()
    with pytest.raises(UnknownNameError, match=r"Unknown need 'gradients'\. Did you mean 'gradient'"):
        list_methods(needs="gradients")
    with pytest.raises(UnknownNameError, match="Unknown site"):
        list_methods(site="layers")


def test_editors_offer_the_names_of_all_methods() -> None:
    assert list(get_args(MethodName)) == interp_plugins.list_methods()


def test_a_name_belongs_to_one_method() -> None:
    with pytest.raises(ValueError, match="already belongs to 'integrated_gradients'"):
        register("intruder", aliases=("IG",))(type("Intruder", (), {}))
    assert "intruder" not in list_methods()
    assert canonical_name("ig") == "integrated_gradients"
    assert info_of(IntegratedGradients) is not None and info_of(LayerGradCam) is not None and info_of(int) is None


# -- one contract per method -----------------------------------------------------------------------------------


def literals(path: Path) -> Iterator[tuple[str, int]]:
    """The string literals of a file that are no docstrings, but for those of DEFAULT_METHODS."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    data = {
        id(node)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]).startswith("DEFAULT_METHODS")
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in data:
            yield node.value, node.lineno


@pytest.mark.parametrize("room", ["core", "api", "engine", "lightning", "store", "metrics", "viz", "insights", "demo"])
def test_no_method_is_named_outside_the_methods(room: str) -> None:
    names = set(list_methods())
    files = [PACKAGE / room] if (PACKAGE / room).is_file() else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    assert [(p.name, line, text) for p in files for text, line in literals(p) if text in names] == []
    assert {*DEFAULT_METHODS, *DEFAULT_METHODS_OF_ROWS} <= names


@pytest.mark.parametrize("room", ["core", "api", "lightning"])
def test_no_parameter_of_one_method_is_named_outside_the_methods(room: str) -> None:
    """Parameters of a kind of methods (`tol`, `internal_batch_size`) may be."""
    owners: dict[str, set[str]] = {}
    for info in map(method_info, list_methods()):
        for parameter in info.takes | info.constructor_takes:
            owners.setdefault(parameter, set()).add(info.variant_of or info.name)
    single = {name for name, methods in owners.items() if "_" in name and len(methods) == 1} | {"attribution_method"}
    assert {"nt_type", "n_similar", "draw_baseline_from_distrib"} <= single
    files = sorted((PACKAGE / room).rglob("*.py"))
    found = [(path.name, line, text) for path in files for text, line in literals(path) if text in single]
    assert found == []


@pytest.mark.parametrize("name", list_methods())
def test_a_method_says_all_of_itself_where_it_is_registered(name: str) -> None:
    info = method_info(name)
    assert dict(info.constructor) == dict(inspect.signature(info.cls).parameters)
    assert list(info.parameters) == list(inspect.signature(info.cls.attribute).parameters)[1:]
    assert info.parameters is info.parameters  # read once
    assert not info.foreign and info.traits.game in (None, *GAMES)
    assert info.variant_of is None or (
        method_info(info.variant_of).name == info.variant_of
        and variant(info.variant_of, info.site) == name
        and method_info(info.variant_of).traits.game in (None, info.traits.game)
    )
    assert info.traits.wraps is None or (
        info.traits.wraps in info.constructor and info.traits.inside and method_info(info.traits.inside)
    )


def test_games_are_claimed() -> None:
    claims = {game: {n for n in list_methods(site="input") if method_info(n).traits.game == game} for game in GAMES}
    assert claims == {
        "shapley": {"shapley_values", "shapley_value_sampling", "kernel_shap"},
        "aumann_shapley": {"integrated_gradients", "gradient_shap"},
        "gradient": {"saliency", "input_x_gradient"},
    }


def test_what_no_method_can_say_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown trait 'share_targets'\. Did you mean 'shares_targets'"):
        register("intruder", share_targets=True)
    with pytest.raises(UnknownNameError, match=r"Unknown trait 'compile'\. Did you mean 'compiles'"):
        family(compile=True)
    with pytest.raises(UnknownNameError, match=r"Unknown game 'shapely'\. Did you mean 'shapley'"):
        register("intruder", game="shapely")
    with pytest.raises(UnknownNameError, match="Unknown axiom 'linear'"):
        register("intruder", axioms=("linear",))
    assert "intruder" not in list_methods()


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Mine(attr.GradientShap):
    """A user's subclass with parameters of its own."""

    def attribute(self, inputs: Any, baselines: Any, strength: float = 1.0, target: Any = None) -> Any:
        return strength * super().attribute(inputs, baselines, n_samples=2, target=target, seed=0)


class Theirs:
    """A user's own method."""

    def __init__(self, model: nn.Module):
        self.model = model

    def attribute(self, inputs: Tensor, target: Any = None, gain: float = 1.0) -> Tensor:
        assert target is None or isinstance(target, list)
        return gain * inputs


class Around:
    """A user's own method around another."""

    def __init__(self, method: Any):
        self.method = method

    def attribute(self, inputs: Tensor, times: int = 1, **kwargs: Any) -> Any:
        return times * self.method.attribute(inputs, **kwargs)


def test_a_subclass_has_the_traits_of_its_registered_base(net: nn.Module, x: Tensor) -> None:
    info = contract_of(Mine(net))
    assert (info.name, info.title, info.foreign) == ("Mine", "Mine", True)
    assert info.traits == method_info("gradient_shap").traits and info.baselines == "distribution"
    assert info.takes == {"inputs", "baselines", "strength", "target"}
    assert contract_of(Mine(net)) is info and info_of(Mine) is None
    exps = explain(net, x, Mine(net), target=[0, 1], strength=2.0)
    assert exps[0].method == "Mine" and exps[0].meta["shared_by_targets"] == 2
    torch.testing.assert_close(exps[1].attributions, 2 * explain(net, x, Mine(net), target=1)[0].attributions)


def test_a_subclass_that_is_registered_says_what_differs(
    net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in ("_METHODS", "_ALIASES", "_BY_CLASS", "_SAID"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))

    @register("my_shap", baselines="distribution", shares_targets=False)
    class MyShap(Mine):
        """Registered."""

    assert method_info("my_shap").traits == Traits(
        shares_tolerance=True, compiles=True, embeds_ids=True, game="aumann_shapley"
    )
    exps = explain(net, x, "my_shap", target=[0, 1], strength=2.0)
    assert "shared_by_targets" not in exps[0].meta and exps[0].method == "my_shap"


def test_a_method_of_ones_own_has_no_traits_and_gets_captums_targets(net: nn.Module, x: Tensor) -> None:
    method = Theirs(net)
    assert contract_of(method).traits == traits_of(method) == Traits() and inner_method(method) is None
    exps = explain(net, x, method, target=[0, 1], gain=3.0)
    torch.testing.assert_close(exps[0].attributions, 3 * x)
    method.attribute = lambda inputs, size=1.0: size * inputs
    assert arguments_of(method) == {"inputs", "size"} and arguments_of(Theirs(net)) == {"inputs", "target", "gain"}


@pytest.mark.parametrize("inner", [attr.IntegratedGradients, attr.GuidedIG, attr.DeepLift, Theirs])
def test_a_method_around_another_can_do_what_that_can(inner: Any, net: nn.Module) -> None:
    method = inner(net)
    inside, tunnel = traits_of(method), traits_of(attr.NoiseTunnel(method))
    mean, nested = traits_of(attr.AugmentedAttribution(method)), traits_of(attr.NoiseTunnel(attr.NoiseTunnel(method)))
    assert (tunnel.shares_targets, tunnel.compiles, tunnel.embeds_ids) == (
        inside.shares_targets, inside.compiles, inside.embeds_ids
    )  # fmt: skip
    assert tunnel.shares_tolerance == inside.shares_targets and not tunnel.asks_delta and nested == tunnel
    assert mean.shares_targets == inside.shares_targets and not mean.shares_tolerance and mean.asks_delta
    assert tunnel.alone_with == inside.alone_with == (("custom_attribution_func",) if inner is attr.DeepLift else ())


def test_a_foreign_method_around_another_is_seen_through(net: nn.Module, x: Tensor) -> None:
    inner = attr.IntegratedGradients(net)
    theirs = captum.attr.NoiseTunnel(inner)
    for method in (theirs, Around(inner)):
        assert inner_method(method) is innermost_method(method) is inner
        assert not traits_of(method).shares_targets and not traits_of(method).asks_delta
        assert {"n_steps", "baselines"} <= arguments_of(method)
    (exp,) = explain(net, x, Around(inner), times=2, n_steps=8, target=1)
    plain = explain(net, x, "ig", n_steps=8, target=1)[0]
    torch.testing.assert_close(exp.attributions, 2 * plain.attributions)


def test_layer_variants_are_found_by_what_they_are_a_variant_of(net: nn.Module, x: Tensor) -> None:
    exps = explain(net, x, ["input_x_gradient", "ig", "deep_lift"], layer="0", n_steps=4)
    assert [e.method for e in exps] == ["layer_gradient_x_activation", "layer_integrated_gradients", "layer_deep_lift"]
    assert exps["input_x_gradient"] is exps[0] and exps["ixg"] is exps[0] and exps["ig"] is exps[1]
    with pytest.raises(InputError, match=r"'occlusion' explains the input and has no layer variant.*deep_lift, .*"):
        explain(net, x, "occlusion", layer="0")


def test_methods_around_others_take_the_layer_inside(net: nn.Module, x: Tensor) -> None:
    exps = explain(net, x, ["noise_tunnel", "augmented"], layer="0", n_steps=4, target=0)
    assert [e.title for e in exps] == ["SmoothGrad-squared of LIG", "Test-time augmentation (LIG)"]
    assert [e.layer for e in exps] == ["0", "0"]
    assert all(e.attribution.shape == (2, 4, 4, 4) for e in exps)
    (exp,) = explain(net, x, "augmented", layer="0", attribution_method="grad_cam", target=0)
    assert exp.title == "Test-time augmentation (Grad-CAM)"


def test_a_layer_average_is_not_asked_for_deltas(net: nn.Module, x: Tensor) -> None:
    method = attr.LayerAverage(attr.LayerIntegratedGradients(net, "0"), ["0", "1"])
    (exp,) = explain(net, x, method, n_steps=4, target=0)
    assert exp.convergence_delta is None and exp.attribution.shape == (2, 1, 6, 6)
