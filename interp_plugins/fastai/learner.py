"""`Learner.explain`: items in, explanations out; the Learner is left exactly as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastai.learner import Learner
from fastai.torch_core import get_model
from fastcore.basics import patch
from torch import Tensor

from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.api.explain import explain as core_explain
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.guard import preserved_rng
from interp_plugins.fastai.batch import Batch, Repacked, from_dl, from_items, from_xb, to_model
from interp_plugins.fastai.items import is_item
from interp_plugins.fastai.labels import wants_label
from interp_plugins.fastai.learner_info import activation_of, body_of, spec_of, threshold_of
from interp_plugins.fastai.restore import restored_state
from interp_plugins.fastai.tabular import Rows, explain_rows, is_table
from interp_plugins.fastai.targets import as_asked
from interp_plugins.fastai.text import Texts, explain_texts, tokens_of

T = TypeVar("T")


@patch
def explain(
    self: Learner,
    item: Any = None,  # what `predict` takes (path, PIL image, array, tensor, row), or a list of them
    methods: Any = DEFAULT_METHODS,  # name, alias or method object, several of these, or a mapping name -> parameters
    target: Any = None,  # None: what is predicted; int: index; str, bool: label; "label": ground truth; list: several
    *,
    dl: Any = None,  # or a loader, always read with validation transforms
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split (1 if none is named); None: all
    xb: Any = None,  # or a batch that is encoded already
    layer: Any = None,  # module, dotted name or function model -> module; None: the last map of the body, where needed
    baselines: Any = None,  # name ("black", "blur", "mean", ...), number, tensor, function, token, or a raw item
    batch_size: int | None = None,  # rows per pass through the model; None: automatic
    seed: int = 0,  # seed of all random draws
    rm_type_tfms: Any = None,  # as for `predict`: how many type transforms to leave out
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # the methods' own parameters (n_steps, ...); an unknown name is a TypeError
) -> Explanations:
    """Explain predictions for raw items, for rows of the data, or for an encoded batch.

    Items go through the validation transforms, as in `predict`, and then to the bare model: recorder, gradients, random
    generators, training flags and transforms stay as they are, so that a callback may explain while it trains. Several
    samples make one `Explanation` of N samples per method (and target); `interp_plugins.explain` says more of methods,
    targets and baselines.

    By default the target is what the model predicts: the class; every label above the loss function's threshold
    (multi-label; one explanation per label, for several items those predicted for any); in a segmentation each
    picture's largest class that is not the background, where the model sees it; up to four outputs of a regression or
    of key points ("point 0 x"; "point 0" is both). `Contrast("cat", "dog")` from `interp_plugins` asks why the one
    rather than the other.

    Rows of a table (tabular, collaborative filtering) get one value per column, compared with the mean training row
    (`baselines`: a row, a DataFrame of rows, "zero"). Texts get one value per token, compared with no text; a language
    model is explained for its next token.

    Raises:
        InterpError: one of its kinds (each also ValueError, TypeError, IndexError or RuntimeError), saying what came,
            what was expected and what to do.

    Example:
        learn.explain("cat.jpg")
        learn.explain(ds_idx=1, idxs=[0, 5], methods="gradcam", target="label").show()
    """
    model, source = get_model(self.model), (item, dl, ds_idx, idxs, xb)
    ask: dict[str, Any] = {
        "target": target,
        "layer": layer,
        "batch_size": batch_size,
        "seed": seed,
        "progress": progress,
        **params,
    }
    with preserved_rng(), restored_state(self.dls, model):
        found = read_batches(self, *source, labelled=wants_label(target), rm_type_tfms=rm_type_tfms)
        if (tokens := tokens_of(self.dls)) is not None:
            return _explain_texts(self, Texts(self, tokens), found, methods, baselines=baselines, **ask)
        if is_item(baselines) and not is_table(self.dls):
            baselines = to_model(from_items(self.dls, baselines, rm_type_tfms=rm_type_tfms), model)
        return explain_batch(self, found[0], methods, baselines=baselines, **ask)


def read_batches(
    learn: Learner, item: Any, dl: Any, ds_idx: Any, idxs: Any, xb: Any, *, labelled: bool, rm_type_tfms: Any = None
) -> list[Batch]:
    """What the arguments of `explain` name, encoded: one batch, or for texts one per text.

    Args:
        learn: the Learner.
        item: as for `explain`.
        dl: likewise.
        ds_idx: likewise.
        idxs: likewise.
        xb: likewise.
        labelled: read the items' ground truth as well.
        rm_type_tfms: as for `explain`.
    """
    dls = learn.dls
    source = (dls, item, dl, ds_idx, idxs, xb)
    if is_table(dls):
        rows = Rows(dls)
        return [_read(*source, rows.from_items, rows.from_dl, lambda b: from_xb(dls, b))]
    if (tokens := tokens_of(dls)) is not None:
        texts = Texts(learn, tokens)
        return _read(*source, lambda t: texts.from_items(t, labelled), texts.from_dl, texts.from_xb)
    return [
        _read(
            *source,
            lambda i: from_items(dls, i, labelled=labelled, rm_type_tfms=rm_type_tfms),
            lambda d, chosen: from_dl(dls, d, chosen),
            lambda b: from_xb(dls, b),
        )
    ]


def explain_batch(
    learn: Learner,
    batch: Batch,
    methods: Any,
    *,
    target: Any,
    baselines: Any = None,
    core: Callable[..., Explanations] = core_explain,
    **params: Any,
) -> Explanations:
    """Explain a batch that was read, with what the Learner knows of it.

    Args:
        learn: the Learner.
        batch: the batch.
        methods: as for `explain`.
        target: as for `explain`.
        baselines: as for `explain`, but no raw picture.
        core: what is called with the model, its inputs and all that is known of them: `interp_plugins.explain`.
        **params: further arguments of it.
    """
    if (tokens := tokens_of(learn.dls)) is not None:
        texts = Texts(learn, tokens)
        params |= {"target": target, "baselines": baselines, "core": core}
        return _explain_texts(learn, texts, texts.split(batch), methods, **params)
    model = get_model(learn.model)
    known = {**_known(learn), "methods": methods, **params}
    if is_table(learn.dls):
        rows = Rows(learn.dls)
        batch = rows.labelled(batch)
        run = partial(core, **known, target=as_asked(target, learn.dls, batch.labels))
        found = explain_rows(rows, model, batch, baselines, run)
    else:
        inputs = to_model(batch, model)
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        found = core(
            model if batch.packing is None else Repacked(model, batch.packing),
            inputs,
            target=as_asked(target, learn.dls, batch.labels),
            baselines=baselines,
            input_spec=spec_of(learn.dls, first, batch.image) if isinstance(first, Tensor) else None,
            **known,
        )
    return Explanations([replace(e, names=batch.names) for e in found])


def _explain_texts(
    learn: Learner,
    texts: Texts,
    batches: list[Batch],
    methods: Any,
    *,
    target: Any,
    baselines: Any,
    core: Callable[..., Explanations] = core_explain,
    **params: Any,
) -> Explanations:
    run = partial(core, **{**_known(learn), "output": texts.output, "methods": methods, **params})
    model = get_model(learn.model)
    return explain_texts(texts, model, batches, lambda b: as_asked(target, learn.dls, b.labels), baselines, run)


def _known(learn: Learner) -> dict[str, Any]:
    """What a Learner says of its outputs and its model."""
    return {
        "activation": activation_of(learn.loss_func),
        "threshold": threshold_of(learn.loss_func),
        "body": body_of(get_model(learn.model)),
    }


def _read(
    dls: Any,
    item: Any,
    dl: Any,
    ds_idx: int | None,
    idxs: Any,
    xb: Any,
    of_items: Callable[[Any], T],
    of_dl: Callable[[Any, Any], T],
    of_xb: Callable[[Any], T],
) -> T:
    """What is to be explained, from the one source that is given, by the reader for it."""
    given = [name for name, v in (("item", item), ("dl", dl), ("ds_idx", ds_idx), ("xb", xb)) if v is not None]
    if len(given) > 1:
        raise InputTypeError(
            f"explain() takes one source of samples, got {' and '.join(given)}. Leave out all but one."
        )
    if idxs is not None and given and given[0] in ("item", "xb"):
        raise InputTypeError(f"idxs= chooses rows of dl= or ds_idx=; it does not go with {given[0]}.")
    if item is not None:
        return of_items(item)
    if xb is not None:
        return of_xb(xb)
    if dl is not None:
        return of_dl(dl, idxs)
    if ds_idx is None and idxs is None:
        raise InputTypeError(
            "There is nothing to explain. Give an item (learn.explain('cat.jpg')), rows of the data (ds_idx=1, "
            "idxs=[0, 1]), a loader (dl=), or an encoded batch (xb=)."
        )
    split = 1 if ds_idx is None else ds_idx
    try:
        return of_dl(dls[split], idxs)
    except IndexError as err:
        n = len(getattr(dls, "loaders", []))
        if isinstance(split, int) and 0 <= split < n:
            raise
        raise InputError(f"ds_idx={split!r}, but the data have {n} splits (0 training, 1 validation).") from err
