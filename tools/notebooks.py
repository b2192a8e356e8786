"""Make the notebooks of `examples` from their scripts, with outputs.

`python tools/notebooks.py [NAME ...] [--out FOLDER]`; they are written beside their scripts, or to another folder:
`make docs EXECUTE=1` builds the site from such.

Each is executed in a folder of its own, on the data that come with packages: downloads are refused, as on a machine
without a network. What differs from run to run and from machine to machine (times, paths) is not kept.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import tempfile
import time
from io import BytesIO
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LARGE = 100_000  # characters of a picture
QUIET = "import warnings; warnings.simplefilter('ignore')"
NO_NETWORK = """
try:
    import fastai.data.external as _external, fastai.{0}.all as _all
    def _refused(*args, **kwargs): raise OSError("no network")
    _external.untar_data = _all.untar_data = _refused
except ImportError:
    pass
"""
APPLICATIONS = {"fastai_adult": "tabular", "fastai_text": "text"}


def executed(name: str) -> nbformat.NotebookNode:
    """A script as a notebook, with the outputs of its cells."""
    notebook = jupytext.read(EXAMPLES / f"{name}.py")
    first = nbformat.v4.new_code_cell(QUIET + NO_NETWORK.format(APPLICATIONS.get(name, "vision")))
    notebook.cells.insert(0, first)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": folder}}).execute()
    del notebook.cells[0]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count -= 1
            cell.outputs = [kept for output in cell.outputs if (kept := without_chance(output)) is not None]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def smaller(data: dict[str, str]) -> None:
    """Photographs as JPEG: as PNG they would make files of megabytes."""
    picture = data.get("image/png", "")
    if len(picture) > LARGE:
        out = BytesIO()
        Image.open(BytesIO(base64.b64decode(picture))).convert("RGB").save(out, "jpeg", quality=85, optimize=True)
        del data["image/png"]
        data["image/jpeg"] = base64.b64encode(out.getvalue()).decode()


def without_chance(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output without what says only when and where it was made; None where nothing is left."""
    if output.output_type == "stream" and output.name == "stderr":
        return None  # bars
    if output.output_type == "execute_result":
        output.execution_count -= 1
    smaller(output.get("data", {}))
    for kind, data in list(output.get("data", {}).items()):
        if kind in ("application/vnd.jupyter.widget-view+json", "application/javascript"):
            del output.data[kind]
        elif kind == "text/plain":
            output.data[kind] = re.sub(r" at 0x[0-9a-f]+", "", data)
    if re.match(r"[\w ()]+:\s+0%\|", output.get("data", {}).get("text/plain", "")):
        return None  # the place of a bar that has gone
    if output.get("data", {}).get("text/html") == "":
        return None
    if "progress" in output.get("data", {}).get("text/html", "") and "<style>" in output.data["text/html"]:
        return None
    return output if output.output_type == "stream" or output.get("data") else None


if __name__ == "__main__":
    os.environ.pop("MPLBACKEND", None)  # a notebook's own shows pictures
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=sorted(p.stem for p in EXAMPLES.glob("*.ipynb")))
    parser.add_argument("--out", type=Path, default=EXAMPLES)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.names:
        begin, path = time.perf_counter(), asked.out / f"{name}.ipynb"
        nbformat.write(executed(name), path)
        print(f"{name}: {path.stat().st_size} bytes, {time.perf_counter() - begin:.0f} s", flush=True)
