"""The page of a benchmark: one file, no network. Ranks, critical differences, error against passes, a sheet a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from interp_plugins.benchmark import pictures
from interp_plugins.benchmark.leaderboard import usual
from interp_plugins.benchmark.registry import list_tasks
from interp_plugins.benchmark.runs import Row, Run
from interp_plugins.viz.page import cells
from interp_plugins.viz.template import section, whole_page

_WIDE = "main { max-width: 90rem; } td:last-child { min-width: 5rem; overflow-wrap: normal; }"
_WIDE += "table { font-size: .78rem; } th { white-space: normal; } th, td { padding-right: .4rem; }"
_WIDE += "summary { cursor: pointer; } summary h2 { display: inline; } details > :nth-child(2) { margin-top: .75rem; }"
_FOLDED = '<details class="sample overview"><summary><h2>{heading}</h2></summary>\n{content}\n</details>\n'
_NONE = "–"
LEGEND = {
    "rank": "Mean over tasks of a method's mean rank over the metrics of a column, 1 the best. In brackets the middle "
    "95 % where tasks and their samples are drawn anew.",
    "critical difference": "Nemenyi's: mean ranks further apart than this differ, at 5 % over all pairs. Bars join "
    "methods that are not told apart.",
    "letters": "Methods that share a letter are not told apart on this task (sign-flip test of the paired differences, "
    "adjusted after Holm).",
    "not above noise": "The interval of the paired difference to control.random does not lie above 0.",
    "controls": "control.truth is as good as a map can be; random, constant, input, edges and centre know nothing of "
    "the model. They do not rank.",
    "map": "Red speaks for the target, blue against it; each map has its own scale.",
    "truth": "Values, masks or elements that were checked when the task was built; docs/benchmark.md says how. Where "
    "Shapley and Aumann-Shapley values differ a task does not rank by truth.",
    "no overall number": "Columns ask different questions, and their metrics disagree.",
}


def to_html(run: Run, found: Mapping[str, Any]) -> str:
    """The page of a run.

    Args:
        run: of `read`; its rows hold small copies of maps.
        found: of `leaderboard`.

    Returns:
        HTML that loads nothing.
    """
    parts = [section(f"Ranks: {column}", _ranks(groups)) for column, groups in found["columns"].items() if groups]
    if len(found["passes"]["methods"]) > 1:
        parts.append(section("Error against passes", _passes(found["passes"])))
    of_task: dict[str, list[Row]] = {}
    for row in run.rows:
        of_task.setdefault(row["task"], []).append(row)
    for task, one in found["tasks"].items():
        heading = escape(f"{task}: {one['says']}")
        parts.append(_FOLDED.format(heading=heading, content=_task(one, of_task[task])))
    parts += [section("Agreement of metrics", _agreement(found)), section("Failures", _failures(found["failures"]))]
    parts.append(section("How to repeat", _repeat(run, found)))
    lead = f"{_tasks(len(found['tasks']))}, size {run.plan.size}, seeds {', '.join(map(str, run.plan.nets))}"
    lead += f"; {found['missing_units']} units are not done yet" if found["missing_units"] else ""
    return whole_page("Which method finds what is true?", lead, parts, LEGEND.items(), _WIDE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped text that scrolls where it is wide; names break behind underscores."""
    named = cells("th", head).replace("[", "<wbr>[")
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{named}</tr></thead><tbody>{body}</tbody></table>".replace("_", "_<wbr>")
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _tasks(n: int) -> str:
    return f"{n} task{'s' * (n != 1)}"


def _ranks(groups: Mapping[str, Any]) -> str:
    """A diagram and a table for each group of tasks; groups of the same tasks are one."""
    parts, seen = [], set()
    for group, one in groups.items():
        key = tuple(one["tasks"])
        if key in seen:
            continue
        seen.add(key)
        w = (
            ""
            if one["kendall_w"] is None
            else f"; Kendall's W {one['kendall_w']:.2f}, Friedman p {one['friedman_p']:.2g}"
        )
        parts.append(f'<p class="note">{escape(group)}: {_tasks(len(key))} ({escape(", ".join(key))}){escape(w)}</p>')
        if len(key) > 1 and len(one["methods"]) > 2:
            image = pictures.critical_difference(one)
            parts.append(f'<img src="{image}" alt="Critical differences: {escape(group)}">')
        rows = [(m, f"{r['rank']:.2f}", f"[{r['low']:.2f}, {r['high']:.2f}]") for m, r in one["methods"].items()]
        parts.append(table(("method", "rank", "95 %"), rows))
    return "".join(parts)


def _passes(found: Mapping[str, Any]) -> str:
    rows = [
        (m, f"{one['passes']:.0f}", f"{one['error']:.2g}", "front" if m in found["front"] else "")
        for m, one in sorted(found["methods"].items(), key=lambda pair: pair[1]["passes"])
    ]
    image = pictures.error_against_passes(found)
    note = (
        f"Mean over {_tasks(max(o['tasks'] for o in found['methods'].values()))} whose values are known to both games."
    )
    text = f'<p class="note">{note}</p><img src="{image}" alt="Error against passes, logarithmic axes">'
    return text + table(("method", "passes", "relative error", ""), rows)


def _task(one: Mapping[str, Any], rows: Sequence[Row]) -> str:
    metrics = {name: about for name, about in one["metrics"].items() if about["column"] != "cost"}
    head = [f"{name} {_way(about)}" for name, about in metrics.items()]
    body = []
    for method in _order(one):
        values = [_cell(about["methods"].get(method)) for about in metrics.values()]
        cost = one["costs"][method]
        primary = one["metrics"].get(one["primary"], {"methods": {}})["methods"].get(method, {})
        noise = "not above noise" if primary.get("beats_noise") is False and usual(method) else ""
        body.append((method, primary.get("letters", ""), *values, f"{cost['forward'] + cost['backward']:.0f}", noise))
    chances = [_NONE if a["chance"] is None else f"{a['chance']:.2f}" for a in metrics.values()]
    body.append(("chance", "", *chances, "", ""))
    text = f'<p class="note">Truth: {escape(one["truth"])}. Ranked by {escape(str(one["primary"]))}.</p>'
    return text + _sheet(one, rows) + table(("method", "", *head, "passes", ""), body)


def _way(about: Mapping[str, Any]) -> str:
    return {True: "↑", False: "↓", None: ""}[about["higher"]]


def _order(one: Mapping[str, Any]) -> list[str]:
    """Methods by the primary metric, the controls last."""
    primary = one["metrics"].get(one["primary"])
    order = list(primary["methods"]) if primary else list(one["costs"])
    order = [m for m in order if ":" not in m]
    return [m for m in order if usual(m)] + [m for m in order if not usual(m)]


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["mean"] is None:
        return _NONE
    span = "" if entry["low"] is None else f" [{entry['low']:.2f},\u00a0{entry['high']:.2f}]"
    return f"{entry['mean']:.3g}{span}" + (f" ({entry['undefined']} undefined)" if entry["undefined"] else "")


def _sheet(one: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Maps of the sample on which methods do best, in the middle and worst, by the primary metric."""
    first = min((r["seed"] for r in rows if r["seed"] is not None), default=0)
    by_sample: dict[int, list[float]] = {}
    for row in rows:
        if (
            row["metric"] == one["primary"]
            and row["seed"] == first
            and row["value"] is not None
            and usual(row["method"])
        ):
            by_sample.setdefault(row["sample"], []).append(row["value"])
    if not by_sample or one["kind"] == "text":
        return ""
    sign = 1.0 if one["metrics"][one["primary"]]["higher"] else -1.0
    order = sorted(by_sample, key=lambda s: -sign * math.fsum(by_sample[s]) / len(by_sample[s]))
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    chosen = {k: v for i, (k, v) in enumerate(chosen.items()) if v not in list(chosen.values())[:i]}
    methods = [*[m for m in _order(one) if usual(m)], *(["control.truth"] if one["truth"] != "none" else [])]
    image = pictures.sheet([r for r in rows if r["seed"] == first], chosen, methods, one["kind"])
    return "" if image is None else f'<img src="{image}" alt="Maps by method of the best, median and worst sample">'


def _agreement(found: Mapping[str, Any]) -> str:
    rows = [(c, _NONE if w is None else f"{w:.2f}") for c, w in found["agreement"].items()]
    return table(("column", "Kendall's W of its metrics over methods, mean over tasks"), rows)


def _failures(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return '<p class="note">None: every task was built, every method explained it.</p>'
    return table(
        ("task", "method", "units", "why"),
        [(f["task"], f["method"] or "the task itself", str(f["times"]), f["reason"]) for f in found],
    )


def _repeat(run: Run, found: Mapping[str, Any]) -> str:
    plan = run.plan
    everything = plan.tasks is None or plan.names == list_tasks()
    words = ["interp-plugins benchmark run", *(() if everything else plan.tasks or ())]
    words += [f"--method {m}" for m in plan.methods or ()] + [f"--metric {m}" for m in plan.metrics or ()]
    words += [f"--seeds {','.join(map(str, plan.nets))} --size {plan.size}" + (" --knobs" if plan.knobs else "")]
    versions = ", ".join(f"{k} {v}" for k, v in found["made"].get("versions", {}).items())
    command = escape(f"{' '.join(words)} --out RUN; interp-plugins benchmark report RUN")
    here = escape(f"{versions}; {found['made'].get('threads')} threads")
    return f'<p><code>{command}</code></p><p class="note">{here}</p>'
