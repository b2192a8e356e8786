"""docs/metrics.md is what the registry says."""

from __future__ import annotations

from pathlib import Path

from interp_plugins.metrics import list_metrics, metric_info
from interp_plugins.metrics.page import metrics_page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_made_of_the_registry() -> None:
    assert PAGE.read_text() == metrics_page() + "\n", "run: python -m interp_plugins.metrics.page > docs/metrics.md"


def test_no_metric_names_a_parameter_twice() -> None:
    for name in list_metrics():
        names = metric_info(name).parameters
        assert len(set(names)) == len(names), name
