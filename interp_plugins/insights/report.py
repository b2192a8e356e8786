"""The viewer as one file: the script, the numbers and a host of a few lines, readable from a disk without a network.

A file is a head (page, script, catalogue) and then blocks of JSON, one per sample and run, that the page reads when it
shows them. So the page stands before all of a large file is read, and a run (an epoch of a training) is added to a file
by appending its blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp_plugins.api.explain import DEFAULT_METHOD
from interp_plugins.core import files
from interp_plugins.core.explanation import Explanation
from interp_plugins.insights.page import page, script
from interp_plugins.insights.precomputed import Precomputed
from interp_plugins.insights.records import Record, as_records, behaviours, entries
from interp_plugins.insights.subject import NoSamples, Subject
from interp_plugins.insights.wire import SCHEMA, as_json, input_record, made_records, palettes, plain


def catalogue(
    subject: Subject, *, title: str = "Insights", method: str = DEFAULT_METHOD, records: Sequence[Record] = ()
) -> dict[str, Any]:
    """All that the page needs before it asks for a map: samples, classes, methods, palettes.

    Args:
        subject: the samples.
        title: heading.
        method: the method chosen at first.
        records: results that are shown beside.
    """
    vocab, methods = subject.spec.vocab, subject.forms()
    return {
        "schema": SCHEMA,
        "title": title,
        "live": bool(methods),
        "saves": True,
        "classes": None if vocab is None else [str(plain(c)) for c in vocab],
        "models": [{"name": name} for name in subject.models],
        "methods": methods,
        "method": method,
        "baselines": list(subject.baselines),
        "palettes": palettes(),
        "samples": subject.samples(),
        "records": entries(records),
        "notes": {},
    }


def file_html(
    about: Mapping[str, Any],
    inputs: Iterable[Mapping[str, Any]],
    maps: Iterable[Sequence[Mapping[str, Any]]],
    run: str = "",
    records: Sequence[Record] = (),
) -> str:
    """The text of one HTML file with the viewer in it.

    Args:
        about: the `catalogue`.
        inputs: the input's record of each sample.
        maps: the maps' records of each sample.
        run: what the run is called, where others will follow.
        records: those of the catalogue.
    """
    data = _block("insights-data", {**about, "live": False, "saves": False, "run": run})
    head = page(script("file_host.js", behaviours(records)), about["title"], data)
    beside = "".join(_block(f"insights-record-{k}", record.page()) for k, record in enumerate(records))
    return head + "".join(_samples(0, inputs, maps)) + beside


def run_blocks(
    number: int,
    name: str,
    samples: Sequence[Mapping[str, Any]],
    inputs: Iterable[Mapping[str, Any]],
    maps: Iterable[Sequence[Mapping[str, Any]]],
) -> str:
    """What is appended to a file for a further run of the same samples.

    Args:
        number: of the run; the file begins with run 0.
        name: what it is called.
        samples: what is known of each sample in this run.
        inputs: the input's record of each sample; empty: those of run 0.
        maps: the maps' records of each sample.
    """
    begin = _block(f"insights-run-{number}", {"name": name, "samples": samples})
    return begin + "".join(_samples(number, inputs, maps))


PAGE = 12  # samples on a page, as the page itself begins


def _samples(run: int, inputs: Iterable[Any], maps: Iterable[Any]) -> Iterator[str]:
    for i, record in enumerate(inputs):
        yield _block(f"insights-input-{run}-{i}", record)
    for i, records in enumerate(maps):
        yield _block(f"insights-maps-{run}-{i}", records)


def _block(name: str, content: Any) -> str:
    """JSON that the page reads, and that is never markup or code."""
    data = json.dumps(as_json(content), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{data}</script>\n'


def records_of(subject: Subject) -> tuple[Iterator[dict[str, Any]], Iterator[list[dict[str, Any]]]]:
    """The records of all inputs and of all maps that a subject has from the beginning, sample by sample."""
    inputs = (input_record(subject.input(i), 0) for i in range(subject.n))
    maps = (
        [
            record
            for key, made in enumerate(subject.given(i))
            for record in made_records(made, key, subject.input_names, subject.call(i))
        ]
        for i in range(subject.n)
    )
    return inputs, maps


def report_html(
    exps: Sequence[Explanation],
    labels: Sequence[Any] | None = None,
    title: str = "Explanations",
    *,
    model: Callable[..., Any] | None = None,
    records: Iterable[Any] = (),
    **call: Any,
) -> str:
    """The viewer with these explanations, as the text of one HTML file.

    Args:
        exps: explanations (methods x targets) of the same samples.
        labels: the ground truth per sample: an index, several indices, or a value; None: unlabelled.
        title: heading of the page.
        model: the model that was explained: its insertion and deletion curves are then shown beside each map (they cost
            42 forward rows per map).
        records: results that are shown beside, each in a tab: suspects, influences, concepts, explained answers, units,
            or a `Record` of one; without explanations (`()`) they stand alone.
        **call: further arguments of `interp_plugins.explain` that the model was called with (`baselines`, `output`,
            `additional_forward_args`, ...), for the curves.

    Raises:
        InputError: nothing to show, explanations of different samples, labels that do not fit, or an unknown record.
    """
    beside = as_records(records)
    subject = Precomputed(exps, labels, model, **call) if exps or not beside else NoSamples()
    return file_html(catalogue(subject, title=title, records=beside), *records_of(subject), records=beside)


def write_report(exps: Sequence[Explanation], path: str | Path, **kwargs: Any) -> Path:
    """Write `report_html(exps, **kwargs)` to a file. Returns its path.

    Example:
        write_report(explain(model, x, ("ig", "saliency")), "report.html", labels=labels)
    """
    return files.write(path, report_html(exps, **kwargs))
