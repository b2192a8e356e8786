"""`atlas`: the directions that occur in a layer, each as a picture, laid out so that neighbours are alike.

Activations of many items, at one random place each, are whitened and laid out in the plane. Of every cell of a grid the
mean direction is climbed (`objectives.angled`, power 4), all cells as the rows of one run.

References:
    Carter et al. 2019, Activation atlas, doi:10.23915/distill.00015.
"""

from __future__ import annotations

import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import samples_chunk
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, concise
from interp_plugins.core.guard import frozen
from interp_plugins.core.progress import progress_bar
from interp_plugins.core.random import check_seed, sample_seed
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.tensors import describe
from interp_plugins.core.truth import Reading
from interp_plugins.optim import objectives as o
from interp_plugins.optim.atlas_result import Atlas
from interp_plugins.optim.capture import Capture
from interp_plugins.optim.collect import KeptExamples
from interp_plugins.optim.evidence import Data, pictures_of
from interp_plugins.optim.examples import capture_for
from interp_plugins.optim.fields import SeenField, field_of
from interp_plugins.optim.making import Making, ModelCall, Recipe
from interp_plugins.optim.params import as_param
from interp_plugins.optim.source import ExampleSource, source_of
from interp_plugins.optim.units import AskedUnits, FeatureUnit, name_of_layer

_RIDGE = 1e-3  # of the mean variance
_EDGES = (0.01, 0.99)
_CROPS = 3


def atlas(
    model: Callable[..., Any],
    data: Any,
    layer: Any,
    *,
    grid: tuple[int, int] = (20, 20),
    n: int = 100_000,
    min_count: int = 8,
    embed: str | Callable[[Tensor], Any] = "umap",
    size: int = 64,
    steps: int = 128,
    param: Any = "fft",
    input_spec: InputSpec | None = None,
    output: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Atlas:
    """Show all directions that the data take in a layer, as a map of pictures.

    Args:
        model: an `nn.Module` or any callable around one; it is left as it was.
        data: a DataLoader, a data set, a tensor or batches.
        layer: module, dotted name or `Layer`.
        grid: rows and columns of the map.
        n: items at most, one place of each.
        min_count: items that a cell needs to have a picture.
        embed: how activations are laid out: "umap" where umap-learn is installed (else, said, "pca"), "pca", or a
            function (n, D) -> (n, 2).
        size: of a picture.
        steps: of each climb.
        param: as for `visualize`.
        input_spec: kind of data, normalisation, class names; guessed from the first batch if None.
        output: which part of the model's output is meant.
        batch_size: items, and pictures, per pass; None: automatic.
        seed: of the places, and of the beginnings.
        progress: None: a bar for long work.

    Returns:
        `Atlas`: `.show()`, `.to_html(path)` (tiles, and for each its items and what the model says of them), `.save`.

    Raises:
        InputTypeError: inputs that are no pictures.
        InputError: too few items for a single cell; a grid that is no two whole numbers.

    Example:
        from interp_plugins.optim import atlas

        atlas(model, dataset, "0", grid=(2, 2), min_count=2, embed="pca", steps=4).images.shape[1:]  # -> (3, 64, 64)
    """
    with concise():
        check_seed(seed)
        if not (isinstance(grid, Sequence) and len(grid) == 2 and all(type(k) is int and k > 0 for k in grid)):
            raise InputError(f"grid is rows and columns of the map, such as (20, 20); got {grid!r}.")
        source = source_of(data, model, input_spec, Reading(), n)
        with frozen(model, seed=seed):
            found = _gathered(model, source, layer, n, input_spec, output, batch_size, seed, progress)
            cells = _cells(found, grid, min_count, embed)
            recipe = Recipe(as_param(param), size=size, steps=steps, seed=seed, chunk=batch_size, tol=None)
            white = _whitening(found.rows)

            def units(making: Making) -> list[FeatureUnit]:
                where = name_of_layer(model, layer)
                return [FeatureUnit(f"{where} {c.place}", o.angled(layer, c.direction, white)) for c in cells]

            like = tuple(x[:1] for x in found.first)
            call = ModelCall(model, like, replace(found.spec, others=found.spec.others), output)
            made = pictures_of(call, AskedUnits("channel", 0, layer), recipe, Data(), progress, units)
            crops = _crops(found, source, cells, n)
        return Atlas(
            images=made.images,
            place=torch.tensor([c.place for c in cells[: len(made)]]),
            count=torch.tensor([len(c.rows) for c in cells[: len(made)]]),
            direction=torch.stack([c.direction for c in cells[: len(made)]]),
            label=tuple(found.says(c) for c in cells[: len(made)]),
            item=tuple(tuple(found.numbers[r] for r in c.rows[:_CROPS]) for c in cells[: len(made)]),
            crops=None if crops is None else crops[: len(made)],
            state=made.state,
            grid=tuple(grid),
            layer=name_of_layer(model, layer),
            seen=len(found.rows),
            spec=found.spec,
            params={**made.params, "embed": found.embedded, "min_count": min_count},
        )


@dataclass
class _Gathered:
    """Activations of items at one place each."""

    rows: Tensor  # (n, D)
    numbers: list[int]
    flat: Tensor  # (n,) places
    said: list[str]  # what the model says of each item, "" where it has no classes
    spec: InputSpec
    first: tuple[Tensor, ...]
    sees: SeenField
    embedded: str = "pca"

    def says(self, cell: _Cell) -> str:
        """The classes that the model says most often of a cell's items."""
        counts = Counter(self.said[r] for r in cell.rows if self.said[r])
        return ", ".join(f"{label} {count / len(cell.rows):.0%}" for label, count in counts.most_common(3))


@dataclass
class _Cell:
    """A cell of the map: where, which rows (those nearest to its direction first), and their direction."""

    place: tuple[int, int]
    rows: list[int]
    direction: Tensor


def _gathered(
    model: Any,
    source: ExampleSource,
    layer: Any,
    n: int,
    spec: InputSpec | None,
    output: Any,
    batch_size: int | None,
    seed: int,
    progress: bool | None,
) -> _Gathered:
    few = next(source.batches(16), None)
    if few is None or not len(few.numbers):
        raise InputError("The data hold no item.")
    spec = as_spec(spec, few.inputs[0])
    _check_pictures(few.inputs)
    asked = AskedUnits("channel", 0, layer)
    capture = capture_for(model, few, asked, output, None)
    whole = Capture.of(capture.forward, tuple(x[:1] for x in few.inputs), (layer,), True)
    size = batch_size or samples_chunk(few.inputs)
    rows, numbers, flats, said = list[Tensor](), list[int](), list[Tensor](), list[str]()
    with torch.no_grad(), whole.running() as run, progress_bar(n, "activations", progress) as bar:
        for batch in source.batches(n):
            for start in range(0, len(batch.numbers), size):
                some = list(batch.numbers[start : start + size])
                inputs = [x[start : start + size] for x in batch.inputs]
                out = run(inputs, torch.zeros(len(some), dtype=torch.long, device=inputs[0].device))
                a = run.seen()[layer].laid_out()
                a = a.flatten(2) if a.ndim > 2 else a  # else there is no place to choose
                at = torch.tensor([_place(seed, i, a.shape[2]) for i in some]) if a.ndim > 2 else None
                picked = a if at is None else a[torch.arange(len(a)), :, at.to(a.device)]
                rows.append(picked.flatten(1).float().cpu())
                flats.append(at if at is not None else torch.full((len(a),), -1))
                numbers += some
                said += _said(out, spec)
                bar.update(len(some))
    axes = tuple(capture.grids[layer].lay_out(torch.empty(capture.shapes[layer], device="meta")).shape[2:])
    with torch.enable_grad():
        sees = field_of(capture, layer, few.inputs, axes, "effective") if axes else SeenField((), (), ())
    return _Gathered(torch.cat(rows), numbers, torch.cat(flats), said, spec, few.inputs, sees)


def _check_pictures(inputs: Sequence[Tensor]) -> None:
    if not any(x.ndim == 4 and x.is_floating_point() for x in inputs):
        raise InputTypeError(
            f"An atlas is a map of pictures, and these inputs are {describe(inputs[0])}. See dataset_examples for "
            "the items that excite a layer's channels."
        )


def _place(seed: int, number: int, places: int) -> int:
    """The one place of an item that is read: the item's own draw."""
    return sample_seed(seed, number) % places


def _said(out: Tensor | None, spec: InputSpec) -> list[str]:
    if out is None or out.ndim != 2 or out.shape[1] < 2:
        return [""] * (0 if out is None else len(out))
    return [str(spec.label(int(c))) for c in out.argmax(1)]


def _whitening(rows: Tensor) -> Tensor:
    """The inverse of the covariance, kept from exploding by a thousandth of the mean variance, (D, D)."""
    centred = rows.double() - rows.double().mean(0)
    covariance = centred.T @ centred / len(rows)
    ridge = _RIDGE * covariance.diagonal().mean().clamp(min=1e-12)
    return torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64)).float()


def _embedded(found: _Gathered, embed: Any) -> Tensor:
    """Activations in the plane, (n, 2)."""
    rows = found.rows.double()
    if callable(embed):
        found.embedded = getattr(embed, "__name__", "function")
        flat = torch.as_tensor(embed(found.rows)).double()
        if tuple(flat.shape) != (len(rows), 2):
            raise InputError(f"embed must give (n, 2) for (n, D); got {tuple(flat.shape)}.")
        return flat
    if embed not in ("umap", "pca"):
        raise InputError(f"embed must be 'umap', 'pca' or a function; got {embed!r}.")
    if embed == "umap":
        try:
            umap = importlib.import_module("umap")
        except ImportError:
            warnings.warn(
                "umap-learn is not installed, so the atlas is laid out by principal components: pip install "
                "umap-learn, or say embed='pca'.",
                InterpWarning,
                stacklevel=5,
            )
        else:
            found.embedded = "umap"
            return torch.as_tensor(
                umap.UMAP(random_state=0, metric="cosine").fit_transform(found.rows.numpy())
            ).double()
    centred = rows - rows.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T


def _cells(found: _Gathered, grid: Sequence[int], min_count: int, embed: Any) -> list[_Cell]:
    """The cells with enough items, row by row."""
    flat = _embedded(found, embed)
    edges = torch.quantile(flat, torch.tensor(_EDGES, dtype=torch.float64), dim=0)
    shares = (flat - edges[0]) / (edges[1] - edges[0]).clamp(min=1e-12)
    inside = ((shares >= 0) & (shares <= 1)).all(1)
    column = (shares[:, 0] * grid[1]).long().clamp(0, grid[1] - 1)
    row = (shares[:, 1] * grid[0]).long().clamp(0, grid[0] - 1)
    made = []
    for r in range(grid[0]):
        for c in range(grid[1]):
            members = torch.nonzero(inside & (row == r) & (column == c)).flatten()
            if len(members) < min_count:
                continue
            direction = found.rows[members].mean(0)
            near = torch.nn.functional.cosine_similarity(found.rows[members], direction[None]).argsort(descending=True)
            made.append(_Cell((r, c), members[near].tolist(), direction))
    if not made:
        raise InputError(
            f"No cell of the {grid[0]} x {grid[1]} map holds {min_count} of the {len(found.rows)} items. Give more "
            "data, a coarser grid, or a smaller min_count."
        )
    return made


def _crops(found: _Gathered, source: ExampleSource, cells: Sequence[_Cell], n: int) -> Tensor | None:
    """Of every cell what the layer sees of three items there, (K, 3, h, w, 3) bytes."""
    kept = KeptExamples(found.spec)
    if not kept.bytes:
        return None
    wanted = {found.numbers[r] for cell in cells for r in cell.rows[:_CROPS]}
    for batch in source.batches(n):
        kept.add(batch, wanted)
    _, box = found.sees.boxes(found.flat)
    made = []
    for cell in cells:
        rows = (cell.rows * _CROPS)[:_CROPS]
        made.append(torch.stack([kept.crop(found.numbers[r], box[r].tolist()) for r in rows]))
    return torch.stack(made) if len({tuple(m.shape) for m in made}) == 1 else None
