"""The viewer as one file: the module, the numbers and a host of forty lines, readable from a disk without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation

from .records import SCHEMA, input_record, map_records, palettes, plain, sample_record

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<div id="insights"></div>
<noscript>This page draws its pictures in the browser and needs JavaScript.</noscript>
<script type="application/json" id="insights-data">$data</script>
<script type="module">$script</script>
</body>
</html>
""")


def asset(name: str) -> str:
    """The text of a file under `static/`."""
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def catalogue(
    exps: Sequence[Explanation], labels: Sequence[int | None] | None = None, title: str = "Explanations"
) -> dict[str, Any]:
    """All that the page needs before it asks for a map: samples, classes, methods, palettes.

    Args:
        exps: explanations of the same samples.
        labels: index of the true class per sample; None: unlabelled.
        title: heading.

    Raises:
        InputError: no explanation, or labels for another number of samples.
    """
    if not exps:
        raise InputError("There is no explanation to show; give at least one.")
    first = exps[0]
    n = len(first)
    odd = [len(e) for e in exps if len(e) != n]
    if odd:
        raise InputError(f"The explanations are of different samples: {n} in the first, {odd[0]} in another.")
    if labels is not None and len(labels) != n:
        raise InputError(f"{len(labels)} labels came for {n} samples; give one per sample (None where unknown).")
    truth = [None] * n if labels is None else [None if v is None else int(v) for v in labels]
    classes = first.spec.vocab
    known = len(classes) if classes is not None else None
    for value in truth:
        if value is not None and known is not None and not 0 <= value < known:
            raise InputError(f"The label {value} is no index of the {known} classes.")
    return {
        "schema": SCHEMA,
        "title": title,
        "live": False,
        "classes": None if classes is None else [str(plain(c)) for c in classes],
        "models": [{"name": str(first.meta.get("model", "model"))}],
        "methods": [],
        "palettes": palettes(),
        "samples": [sample_record(exps, i, truth[i], classes) for i in range(n)],
    }


def file_html(content: Mapping[str, Any]) -> str:
    """The text of one HTML file with the viewer in it.

    Args:
        content: `catalogue`; `inputs` and `maps`, one entry per sample; `notes`.
    """
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    return page(asset("insights.js") + asset("file_host.js"), content["catalogue"]["title"], data)


def page(script: str, title: str, data: str = "null", connect: str = "'none'") -> str:
    """The HTML frame around a script; nothing but that script runs in it.

    Args:
        script: the module and its host.
        title: of the document.
        data: JSON without "<", for the host.
        connect: the addresses that the page may talk to, as in a Content-Security-Policy.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    return _PAGE.substitute(policy=policy, title=escape(title), style=asset("insights.css"), data=data, script=script)


def report_html(
    exps: Sequence[Explanation], labels: Sequence[int | None] | None = None, title: str = "Explanations"
) -> str:
    """The viewer with these explanations, as the text of one HTML file.

    Args:
        exps: explanations (methods x targets) of the same samples.
        labels: index of the true class per sample; None: unlabelled.
        title: heading of the page.

    Raises:
        InputError: see `catalogue`.
    """
    about = catalogue(exps, labels, title)
    inputs = [input_record(exps[0], i) for i in range(len(about["samples"]))]
    return file_html({"catalogue": about, "inputs": inputs, "maps": map_records(exps), "notes": {}})


def write_report(exps: Sequence[Explanation], path: str | Path, **kwargs: Any) -> Path:
    """Write `report_html(exps, **kwargs)` to a file. Returns its path."""
    path = Path(path)
    path.write_text(report_html(exps, **kwargs), encoding="utf-8")
    return path
