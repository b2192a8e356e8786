"""The registry: every method by its name, its aliases, its class name, in any spelling."""

from __future__ import annotations

import pytest

import interp_plugins
from interp_plugins.api.binding import canonical_name, info_of, list_methods, method_info
from interp_plugins.attr import IntegratedGradients, LayerGradCam
from interp_plugins.core.errors import UnknownNameError
from interp_plugins.core.registry import register


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


def test_a_name_belongs_to_one_method() -> None:
    with pytest.raises(ValueError, match="already belongs to 'integrated_gradients'"):
        register("intruder", aliases=("IG",))(type("Intruder", (), {}))
    assert "intruder" not in list_methods()
    assert canonical_name("ig") == "integrated_gradients"
    assert info_of(IntegratedGradients) is not None and info_of(LayerGradCam) is not None and info_of(int) is None
