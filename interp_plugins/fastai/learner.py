"""`Learner.explain`: items in, explanations out; the Learner is left exactly as it was."""

from __future__ import annotations

from typing import Any

from fastai.learner import Learner
from fastcore.basics import patch

from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.errors import concise
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.registry import Budget
from interp_plugins.fastai import tabular, text, vision  # noqa: F401 - the readers of these kinds of data
from interp_plugins.fastai.items import SampleSource
from interp_plugins.fastai.reader import reader_of


@patch
def explain(
    self: Learner,
    item: Any = None,
    methods: Methods | None = None,
    target: Any = None,
    *,
    against: Any = None,
    dl: Any = None,
    ds_idx: int | None = None,
    idxs: Any = None,
    xb: Any = None,
    layer: Any = None,
    baselines: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    output: Any = None,
    label_key: int | None = None,
    budget: Budget = "fast",
    rm_type_tfms: Any = None,
    progress: bool | None = None,
    **params: Any,
) -> Explanations:
    """Explain predictions for raw items, for rows of the data, or for an encoded batch.

    Items go through the validation transforms, as in `predict`, and then to the bare model: recorder, gradients, random
    generators, training flags and transforms stay as they are, so that a callback may explain while it trains. Several
    samples make one `Explanation` of N samples per method (and target); `interp_plugins.explain` says more of methods,
    targets and baselines.

    By default the target is what the model predicts: the class; every label above the loss function's threshold
    (multi-label; one explanation per label, for several items those predicted for any); in a segmentation each
    picture's largest class that is not the background, where the model sees it; up to four outputs of a regression or
    of key points ("point 0 x"; "point 0" is both). `target="cat", against="dog"` asks why the one rather than the
    other.

    Rows of a table (tabular, collaborative filtering) get one value per column, compared with the mean training row
    (`baselines`: a row, a DataFrame of rows, "zero"). Texts get one value per token, compared with no text; a language
    model is explained for its next token.

    Args:
        item: what `predict` takes (path, PIL image, array, tensor, row), or a list of them.
        methods: name, alias or method object, several of these, or a mapping name -> parameters.
        target: None: what is predicted; int: index; str, bool: label; "label": ground truth; list: several.
        against: why `target` rather than this: one target, of any kind that `target` may be.
        dl: or a loader, always read with validation transforms.
        ds_idx: or a split of the data: 0 training, 1 validation.
        idxs: which rows of `dl` or of the split (1 if none is named); None: all.
        xb: or a batch that is encoded already.
        layer: module, dotted name or function model -> module; None: the last map of the body, where needed.
        baselines: name ("black", "blur", "mean", ...), number, tensor, function, token, or a raw item.
        batch_size: rows per pass through the model; None: automatic.
        seed: seed of all random draws.
        output: which of several outputs: position, key or function; with its target and class names.
        label_key: which of the data's targets belongs to it; None: that at the output's place.
        budget: "fast": a first map in seconds; "normal"; "thorough": for figures (docs/budget.md).
        rm_type_tfms: as for `predict`: how many type transforms to leave out.
        progress: None: a bar for long work.
        **params: the methods' own parameters (n_steps, ...); an unknown name is a TypeError.

    Returns:
        Explanations, one per method and target, of all samples; addressable by method name.

    Raises:
        InterpError: one of its kinds (each also ValueError, TypeError, IndexError or RuntimeError), saying what came,
            what was expected and what to do.

    Example:
        learn.explain("cat.jpg")
        learn.explain(ds_idx=1, idxs=[0, 5], methods="gradcam", target="label").show()
    """
    with concise():
        return reader_of(self).explain_source(
            SampleSource(item, dl, ds_idx, idxs, xb),
            methods,
            target=target,
            against=against,
            baselines=baselines,
            rm_type_tfms=rm_type_tfms,
            layer=layer,
            batch_size=batch_size,
            seed=seed,
            budget=budget,
            progress=progress,
            output=output,
            label_key=label_key,
            **params,
        )
