"""`methods()`: the table of methods, its cards, and the command that prints them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import interp_plugins as ip
from interp_plugins.cli import app
from interp_plugins.core.errors import UnknownNameError


def test_the_table_lists_plain_methods_and_all_on_request() -> None:
    names = [one.name for one in ip.methods()]
    assert "integrated_gradients" in names and "grad_cam" in names and "layer_integrated_gradients" not in names
    assert [one.name for one in ip.methods(variants=True)] == ip.list_methods()
    assert {one.needs for one in ip.methods(needs="perturbation")} == {"perturbation"}
    assert {one.site for one in ip.methods(site="neuron", variants=True)} == {"neuron"}
    with pytest.raises(UnknownNameError, match="Did you mean 'gradient'"):
        ip.methods(needs="gradients")


def test_a_card_is_found_by_any_name_and_says_all_that_is_known() -> None:
    table = ip.methods()
    card = table["GradCAM"]
    assert card == next(one for one in table if one.name == "grad_cam")
    assert card.layer and card.trust == "passes" and "1610.02391" in str(card)
    assert not table["saliency"].layer and table["guided_grad_cam"].layer
    assert table["deconvolution"].trust == "fails" and "random" in str(table["deconvolution"])
    with pytest.raises(UnknownNameError, match="Did you mean 'occlusion'"):
        table["oclusion"]


def test_it_shows_itself_in_a_terminal_and_in_a_notebook() -> None:
    table = ip.methods()
    lines = repr(table[:3]).splitlines()
    assert len(lines) == 4 and lines[0].split()[:3] == ["name", "over", "layer"]
    assert "integrated_gradients" in repr(table) and max(map(len, repr(table).splitlines())) < 130
    html = table[:3]._repr_html_()
    assert html.count("<tr>") == 4 and "<th>passes per sample</th>" in html


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_said_of_the_sign_holds(seed) -> None:
    torch.manual_seed(seed)
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Tanh(), *head)
    x, spec = torch.randn(2, 3, 10, 10), ip.InputSpec("image")
    cards = [one for one in ip.methods() if one.data != "transformer" and not one.signed]
    assert {"saliency", "grad_cam", "noise_tunnel", "sobol"} <= {one.name for one in cards}
    signed = ["input_x_gradient", "integrated_gradients", "occlusion"]
    for name in [one.name for one in cards] + signed:
        least = ip.explain(net, x, {name: {}}, input_spec=spec, progress=False, budget="fast")[0].attribution.min()
        assert (least < 0) == (name in signed), name


def test_the_command_shows_one_card_and_its_version() -> None:
    found = CliRunner().invoke(app, ["methods", "occl"])
    assert found.exit_code == 0 and "Zeiler" in found.output and "d + 1 forward" in found.output
    missing = CliRunner().invoke(app, ["methods", "oclusion"])
    assert missing.exit_code == 2 and "Did you mean 'occlusion'?" in missing.output
    assert CliRunner().invoke(app, ["--version"]).output == f"interp-plugins {ip.__version__}\n"


def test_dir_shows_public_names_only() -> None:
    assert sorted(ip.__all__) == dir(ip)
    assert all(hasattr(ip, name) for name in dir(ip))
