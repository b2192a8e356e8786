"""Every `Example:` of a docstring runs, and gives what it says it gives (``# -> value``).

An example may use its module's names, the package's public ones, and what `tests/words/prepared.py` prepares: a small
net `model`, two pictures `x`, `labels`, a `loader`; in the adapters a Learner `learn`, or a LightningModule and a
Trainer.
"""

from __future__ import annotations

import ast
import importlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.words.prepared import public

ROOT = Path(__file__).parents[2]
AREAS = {"fastai": "fastai", "lightning": "lightning"}

# What people type first: none of these is without an example.
SHOWN = {
    "api.explain": ["explain"],
    "attr.gradient.integrated_gradients": ["IntegratedGradients"],
    "attr.gradient.saliency": ["Saliency", "InputXGradient"],
    "attr.gradient.gradient_shap": ["GradientShap"],
    "attr.gradient.activation": ["LayerActivation"],
    "attr.gradient.conductance": ["LayerConductance"],
    "attr.gradient.layers": ["LayerIntegratedGradients"],
    "attr.ensembles.noise_tunnel": ["NoiseTunnel"],
    "attr.perturbation.ablation": ["FeatureAblation"],
    "attr.perturbation.occlusion": ["Occlusion"],
    "attr.perturbation.permutation": ["FeaturePermutation"],
    "attr.perturbation.kernel_shap": ["KernelShap"],
    "attr.perturbation.lime": ["Lime"],
    "attr.perturbation.rise": ["RISE"],
    "attr.perturbation.shapley": ["ShapleyValueSampling", "ShapleyValues"],
    "attr.backward.deep_lift": ["DeepLift", "DeepLiftShap"],
    "attr.backward.guided": ["GuidedBackprop"],
    "attr.backward.lrp": ["LRP"],
    "attr.cam.grad_cam": ["LayerGradCam"],
    "core.explanation": ["Explanation.show", "Explanation.plot", "Explanation.save", "Explanation.to_df"],
    "core.layers": ["Layer"],
    "core.registry": ["list_methods"],
    "core.similar": ["SimilarTo"],
    "core.spec": ["InputSpec"],
    "core.target": ["RatherThan"],
    "engine.switch": ["acceleration"],
    "fastai.callback": ["AttributionCallback"],
    "fastai.dataset": ["explain_dataset"],
    "fastai.interpretation": ["plot_top_losses_explained", "show_explanations"],
    "fastai.learner": ["explain"],
    "insights.records": ["Record"],
    "insights.report": ["write_report"],
    "insights.session": ["Session"],
    "lightning.callback": ["AttributionCallback"],
    "lightning.run": ["explain"],
    "lightning.top_losses": ["top_losses"],
    "lightning.writer": ["AttributionWriter"],
    "store.dataset": ["explain_dataset"],
    "store.reader": ["ExplanationStore"],
}


def named(node: ast.AST, within: str = "") -> Iterator[tuple[str, str]]:
    """Every class and function with a docstring, by its name within the module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
            name = f"{within}{child.name}"
            yield name, ast.get_docstring(child) or ""
            yield from named(child, f"{name}.")


def example(docstring: str) -> str | None:
    """The code of a docstring's `Example:` section."""
    _, found, rest = f"\n{docstring}".partition("\nExample:\n")
    if not found:
        return None
    lines = rest.splitlines()
    stop = next((i for i, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    return textwrap.dedent("\n".join(lines[:stop]))


def examples() -> list[tuple[str, str, str]]:
    """Module, name in it, code; for all examples of the package."""
    found = []
    for path in sorted((ROOT / "interp_plugins").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "interp_plugins").with_suffix("").parts)
        source = path.read_text(encoding="utf-8")
        for name, docstring in named(ast.parse(source)) if "Example:" in source else ():
            code = example(docstring)
            assert code is not None or "Example:" not in docstring, f"{module} {name}: Example: opens a section"
            if code is not None:
                found.append((module, name, code))
    return found


EXAMPLES = examples()


@pytest.mark.parametrize(("module", "code"), [pytest.param(m, c, id=f"{m}.{n}") for m, n, c in EXAMPLES])
def test_example(module: str, code: str, session: Any) -> None:
    own = importlib.import_module(f"interp_plugins.{module}")
    area = AREAS.get(module.partition(".")[0], "plain")
    session(area, code, **({} if area != "plain" else public(own)))


def test_what_people_type_first_has_an_example() -> None:
    found = {(module, name) for module, name, _ in EXAMPLES}
    assert {(module, name) for module, names in SHOWN.items() for name in names} - found == set()


@pytest.mark.parametrize(
    "code",
    ["x.shape  # -> (2, 3, 24, 25)", "1 + 1  # -> 3", "x.mean()  # -> 7.0", "str(1)  # -> 'a'", "x  # -> [[..."],
)
def test_a_wrong_result_is_seen(code: str, session: Any) -> None:
    with pytest.raises(AssertionError):
        session("plain", code)
