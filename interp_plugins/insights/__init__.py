"""The interactive viewer: one ES module, shown by a file, a notebook widget or a local server.

    exps.to_html(...)                                   # a still page (interp_plugins.viz)
    write_report(exps, "report.html")                   # the viewer in one file, no network
    widget(Session(model, x)), serve(lambda: Session(model, x))      # with the model behind it

Python keeps the state (`session.Session`); pictures travel as numbers, and colours are made in the page.
"""

from __future__ import annotations

# ruff: noqa: E402 - the door says first what is missing
from interp_plugins.core.extras import require

require("interp_plugins.insights", "insights", "matplotlib")

from interp_plugins.insights.captum import (
    AttributionVisualizer,
    Batch,
    EmptyFeature,
    Feature,
    GeneralFeature,
    ImageFeature,
    TextFeature,
)
from interp_plugins.insights.precomputed import Precomputed
from interp_plugins.insights.records import Record
from interp_plugins.insights.report import report_html, write_report
from interp_plugins.insights.server import Server, serve
from interp_plugins.insights.session import Session
from interp_plugins.insights.subject import Ask, Live, Made, Subject
from interp_plugins.insights.widget import widget

__all__ = [
    "Ask",
    "AttributionVisualizer",
    "Batch",
    "EmptyFeature",
    "Feature",
    "GeneralFeature",
    "Precomputed",
    "ImageFeature",
    "Live",
    "Made",
    "Record",
    "Server",
    "Session",
    "Subject",
    "TextFeature",
    "report_html",
    "serve",
    "widget",
    "write_report",
]
