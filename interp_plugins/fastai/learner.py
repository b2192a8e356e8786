"""`Learner.explain`: items in, explanations out; the Learner is left exactly as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastai.learner import Learner
from fastai.torch_core import get_model
from fastcore.basics import patch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.explain import DEFAULT_METHODS
from interp_plugins.core.explain import explain as core_explain
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.guard import preserved_rng

from .batch import Batch, Repacked, from_dl, from_items, from_xb, to_model
from .facts import activation_of, body_of, spec_of, threshold_of
from .items import is_item
from .memory import unremembered
from .targets import as_asked
from .truth import wants_label


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
    baselines: Any = None,  # name ("black", "blur", ...), number, tensor, function, or a raw item (Path, PIL image)
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

    Raises:
        InterpError: one of its kinds (each also ValueError, TypeError, IndexError or RuntimeError), saying what came,
            what was expected and what to do.

    Example:
        learn.explain("cat.jpg")
        learn.explain(ds_idx=1, idxs=[0, 5], methods="gradcam", target="label").show()
    """
    model = get_model(self.model)
    with preserved_rng(), unremembered(self.dls, model):
        batch = _read(self, item, dl, ds_idx, idxs, xb, rm_type_tfms, labelled=wants_label(target))
        if is_item(baselines):
            baselines = to_model(from_items(self.dls, baselines, rm_type_tfms=rm_type_tfms), model)
        return explain_batch(
            self,
            batch,
            methods,
            target=target,
            baselines=baselines,
            layer=layer,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
            **params,
        )


def explain_batch(learn: Learner, batch: Batch, methods: Any, *, target: Any, **params: Any) -> Explanations:
    """Explain a batch that was read, with what the Learner knows of it; `params` are those of the core's `explain`."""
    model = get_model(learn.model)
    inputs = to_model(batch, model)
    first = inputs[0] if isinstance(inputs, tuple) else inputs
    found = core_explain(
        model if batch.packing is None else Repacked(model, batch.packing),
        inputs,
        methods,
        target=as_asked(target, learn.dls, batch.labels),
        input_spec=spec_of(learn.dls, first, batch.image) if isinstance(first, Tensor) else None,
        activation=activation_of(learn.loss_func),
        threshold=threshold_of(learn.loss_func),
        body=body_of(model),
        **params,
    )
    return Explanations([replace(e, names=batch.names) for e in found])


def _read(
    learn: Learner, item: Any, dl: Any, ds_idx: int | None, idxs: Any, xb: Any, rm_type_tfms: Any, labelled: bool
) -> Batch:
    """The batch from the one source that is given."""
    given = [name for name, v in (("item", item), ("dl", dl), ("ds_idx", ds_idx), ("xb", xb)) if v is not None]
    if len(given) > 1:
        raise InputTypeError(
            f"explain() takes one source of samples, got {' and '.join(given)}. Leave out all but one."
        )
    if idxs is not None and given and given[0] in ("item", "xb"):
        raise InputTypeError(f"idxs= chooses rows of dl= or ds_idx=; it does not go with {given[0]}.")
    if item is not None:
        return from_items(learn.dls, item, labelled=labelled, rm_type_tfms=rm_type_tfms)
    if xb is not None:
        return from_xb(learn.dls, xb)
    if dl is not None:
        return from_dl(learn.dls, dl, idxs)
    if ds_idx is None and idxs is None:
        raise InputTypeError(
            "There is nothing to explain. Give an item (learn.explain('cat.jpg')), rows of the data (ds_idx=1, "
            "idxs=[0, 1]), a loader (dl=), or an encoded batch (xb=)."
        )
    split = 1 if ds_idx is None else ds_idx
    try:
        return from_dl(learn.dls, learn.dls[split], idxs)
    except IndexError as err:
        n = len(getattr(learn.dls, "loaders", []))
        if isinstance(split, int) and 0 <= split < n:
            raise
        raise InputError(f"ds_idx={split!r}, but the data have {n} splits (0 training, 1 validation).") from err
