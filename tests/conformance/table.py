"""What conformance asks of every method, as `docs/dev/conformance.md`; the tables that drive the tests give its cells.

python -m tests.conformance.table > docs/dev/conformance.md
"""

from __future__ import annotations

from interp_plugins.api.binding import list_methods, method_info
from tests.conformance.cases import BY_NAME, VARIANTS, accepted, applies, make
from tests.conformance.test_results import BY_PLACE, CHUNKS, SEEDED, SHUFFLED
from tests.conformance.test_targets import COMPARES_CLASSES, TARGETS, WAYS

HEAD = """# Conformance

Made by `python -m tests.conformance.table > docs/dev/conformance.md`; do not edit. Every cell is run by
`tests/conformance`, from one table of cases (`cases.py`), for every registered method.

- *Layout*: problems whose result has the documented shapes and is finite.
- *Targets*: ways of asking, kinds of target and all classes in one call, each against the plain class
  (`test_targets.py`).
- *Chunks*: arguments that cut the work, none of which changes a number.
- *State*: the model, its hooks and the random generators are as before, after success and after an error
  (`test_state.py`).
- *Seed*: the seed decides; "fixed": no random numbers.
- *Batch*: a sample's map does not depend on its neighbours. "independent": alone it has the map that it has among
  others, random draws included. "by place": what is drawn for a sample depends on the seed, its place in the batch and
  the batch's size, and not on what the others are, with a tolerance (`tol`) neither. "by feature": the method takes
  values from the neighbours by definition, and what it says of a feature depends on their values of that feature alone.
- *Types*: float64, float32 and bfloat16 agree (1e-5 and 0.1 of the largest value) with the same random numbers. A seed
  gives float32 and half precision the same ones, and float64 others, as torch and so Captum have it.
- *Saved*: an `Explanation` comes back from its file as it was. *Layer*, *neuron*: the registered variants.
"""


def _variants(name: str, site: str) -> str:
    info = method_info(name)
    if info.site == site:
        return "itself"
    plain = info.variant_of or name
    found = [n for n in list_methods(site=site) if plain in (n, method_info(n).variant_of)]
    return ", ".join(f"`{n}`" for n in found) or "-"


def _row(name: str) -> list[str]:
    takes = accepted(make(name, BY_NAME["int"].build()))
    seeded = name in SEEDED
    ways = len(WAYS) + 1 - (name in COMPARES_CLASSES) + (0 if name in COMPARES_CLASSES else len(TARGETS))
    return [
        f"`{name}`",
        str(sum(applies(name, case) for case in BY_NAME.values())),
        str(ways),
        str(sum(chunk in takes for chunk in CHUNKS)),
        "kept",
        "yes" if seeded else "fixed",
        "by place" if name in BY_PLACE else "by feature" if name in SHUFFLED else "independent",
        "agree",
        "yes",
        _variants(name, "layer"),
        _variants(name, "neuron"),
    ]


def page() -> str:
    """`docs/dev/conformance.md`."""
    head = ["Method", "Layout", "Targets", "Chunks", "State", "Seed", "Batch", "Types", "Saved", "Layer", "Neuron"]
    assert set(list_methods()) <= set(VARIANTS)
    rows = [head, ["---"] * len(head), *(_row(name) for name in list_methods())]
    return HEAD + "\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")
