"""The kinds of results that the viewer shows beside maps, each drawn by the code that draws its own page.

A record is a result, or a `Record` of it with the words of its `to_html`. The page gets its parts (`wire.js`:
RecordPage) and puts them where no style of the viewer reaches; what its script does is in the page's own script, by
kind, since nothing else may run there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from interp_plugins.core.errors import InputError, MissingFileError
from interp_plugins.core.tensors import describe
from interp_plugins.core.text import legible
from interp_plugins.viz.template import STYLE, Document, function_of


@dataclass(frozen=True)
class RecordKind:
    """A kind of result, and who draws it.

    Attributes:
        name: in the page.
        title: of its tab, where none is given.
        results: the classes of results.
        draw: result and words of its `to_html` -> its page.
        script: what its pages run; see `viz.template.Document`.
    """

    name: str
    title: str
    results: tuple[type, ...]
    draw: Callable[..., Document]
    script: str = ""


@cache
def kinds() -> tuple[RecordKind, ...]:
    """Every kind that the viewer shows; they are loaded when one is wanted."""
    from interp_plugins import concept, influence, llm, optim
    from interp_plugins.concept.pictures import bank_page
    from interp_plugins.influence import page as influences
    from interp_plugins.influence import suspect_page as suspects
    from interp_plugins.llm.page import page as answers
    from interp_plugins.optim import atlas_page as atlas
    from interp_plugins.optim import page as units

    return (
        RecordKind("suspects", "Suspects", (influence.Suspects,), suspects.page, suspects.SCRIPT),
        RecordKind("influence", "Influence", (influence.Influences,), influences.page),
        RecordKind("concepts", "Concepts", (concept.ConceptBank,), bank_page),
        RecordKind("answers", "Answers", (llm.TextExplanations,), answers),
        RecordKind("answer", "Answer", (llm.TextExplanation,), lambda one, **words: answers((one,), **words)),
        RecordKind("pictures", "Units", (optim.Visualization,), units.features_page, units.SCRIPT),
        RecordKind("examples", "Units", (optim.Examples,), units.examples_page, units.SCRIPT),
        RecordKind("atlas", "Atlas", (optim.Atlas,), atlas.atlas_page, atlas.SCRIPT),
    )


class Record:
    """A result that the viewer shows beside maps, in a tab of its own.

    Args:
        result: `Suspects`, `Influences`, a `ConceptBank`, explained answers of `interp_plugins.llm`, or what
            `interp_plugins.optim` finds of units.
        tab: what its tab says; None: the kind of result.
        **words: as for its `to_html`, but the path (`n=30`, `maps=...`).

    Raises:
        InputError: a result of another kind.

    Example:
        from interp_plugins.influence import influence
        from interp_plugins.insights import Record, write_report

        x, y = torch.rand(40, 3, 24, 24), torch.arange(40) % 10
        found = influence(model, x[:2], (x, y), k=3)
        write_report((), "why.html", records=[Record(found, "Why these two?", maps=found.explain(model))])
    """

    def __init__(self, result: Any, tab: str | None = None, **words: Any):
        kind = next((k for k in kinds() if isinstance(result, k.results)), None)
        if kind is None:
            known = ", ".join(c.__name__ for k in kinds() for c in k.results)
            raise InputError(f"The viewer shows results of the kinds {known}; got {describe(result)}.")
        self.result, self.kind, self.words = result, kind, words
        self.tab = kind.title if tab is None else str(tab)
        self._page: dict[str, Any] | None = None

    def page(self) -> dict[str, Any]:
        """What the viewer gets of it; drawn once."""
        if self._page is None:
            drawn = self.kind.draw(self.result, **self.words)
            self._page = {
                "title": drawn.title,
                "lead": drawn.lead,
                "body": legible(drawn.body),
                "style": STYLE + drawn.style,
                "facts": drawn.facts,
            }
        return self._page


def load_record(path: str | Path) -> Record:
    """The record of a result that was saved (`found.save(path)`).

    Raises:
        MissingFileError: there is no such file.
        InputError: it holds no result that the viewer shows.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"There is no file {path}.")
    for loads in (c.load for kind in kinds() for c in kind.results if hasattr(c, "load")):
        try:
            found = loads(path)
        except Exception:  # a file of another kind; whatever lies on a disk may fail in any way
            continue
        return Record(found, **_words(found))
    known = ", ".join(c.__name__ for kind in kinds() for c in kind.results if hasattr(c, "load"))
    raise InputError(f"{path} holds none of the results that the viewer shows ({known}), or it is damaged.")


def _words(found: Any) -> dict[str, Any]:
    """Of suspects that were saved: as many as the file keeps pictures of, each with its neighbours."""
    kept = getattr(getattr(found, "gallery", None), "kept", None)
    if kept is None:
        return {}
    first = found.order[:100].tolist()
    return {"n": sum(1 for _ in takewhile(lambda r: {int(found.items[r]), *found.near(r)} <= kept.keys(), first))}


def as_records(given: Iterable[Any]) -> list[Record]:
    """Records of results, and those that are records already."""
    return [one if isinstance(one, Record) else Record(one) for one in given]


def entries(records: Sequence[Record]) -> list[dict[str, str]]:
    """What the page knows of them before it asks for one."""
    return [{"kind": record.kind.name, "tab": record.tab} for record in records]


def behaviours(records: Sequence[Record] | None = None) -> str:
    """The scripts of these records' kinds, None: of all, as a JavaScript object: kind -> function."""
    wanted = kinds() if records is None else dict.fromkeys(record.kind for record in records)
    return "{" + "".join(f"\n{kind.name}: {function_of(kind.script)}," for kind in wanted if kind.script) + "}"
