"""`influence`: which training items made the model say so, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, InputTypeError, concise
from interp_plugins.core.forward import select_output
from interp_plugins.core.guard import frozen, modules_of
from interp_plugins.core.hooks import hooked
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import RatherThan
from interp_plugins.core.tensors import as_tuple, describe
from interp_plugins.core.weights import as_checkpoints, spread, with_rates
from interp_plugins.influence import curvature as _curvature  # noqa: F401 - enters its methods
from interp_plugins.influence.captum import check_k
from interp_plugins.influence.head_curvature import MOST_BY_ITSELF
from interp_plugins.influence.index import scores_by_index
from interp_plugins.influence.losses import Margin, SampleLoss, negative
from interp_plugins.influence.methods import InfluenceMethod, Question, method_named
from interp_plugins.influence.passes import GradientPasses
from interp_plugins.influence.readable import read
from interp_plugins.influence.result import Influences
from interp_plugins.influence.walk import Items, ItemWalk

MOST_CHECKPOINTS = 6


def influence(
    model: Any,
    inputs: Any,
    train: Any,
    *,
    loss: Any = None,
    target: Any = "predicted",
    labels: Any = None,
    k: int = 8,
    method: str = "auto",
    layers: Sequence[str] | str | None = None,
    checkpoints: Any = None,
    opponents: bool = True,
    normalize: str | None = None,
    damping: float | None = None,
    weight_decay: float = 0.0,
    output: Any = None,
    input_spec: InputSpec | None = None,
    item_names: Any = None,
    query_names: Sequence[str] | None = None,
    words: Any = None,
    batch_size: int | None = None,
    all_scores: bool = False,
    check: bool = False,
    index: str | Path | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Influences:
    """Find the training items that made the model say so, and those that spoke against it.

    A score is positive where training on the item raised what was asked for. The model is asked in eval mode, and keeps
    its weights, mode and gradients; items are numbered as in their data set, whatever a loader does.

    Args:
        model: an `nn.Module`, or a callable around one.
        inputs: the queries: a tensor, or a tuple of tensors, samples first.
        train: the training data: a data set, a loader, or a tuple (inputs, labels) of tensors.
        loss: what the model was trained with, (output, labels) -> loss; any reduction. None: cross entropy, binary
            cross entropy or squared error, by the kind of the labels.
        target: what is asked of each query: "predicted", how clearly it is the predicted class, log p / (1 - p);
            "label", how small the loss of `labels` is; a class index, or one per query; a `RatherThan` of two indices.
        labels: of the queries, for target="label".
        k: items of each kind per query.
        method: "fast" (last layer), "tracin" (all layers), "ekfac", "ekfac_last", "exact", "exact_last", "arnoldi",
            "similarity", "representer", "knn_shapley"; "auto" is "fast" where checkpoints are given and the model ends
            in a linear layer, without checkpoints "exact_last" where that layer has at most 1,500 weights and
            "ekfac_last" where it has more, "tracin" for other models.
        layers: names of modules whose weights count; None: all that require a gradient.
        checkpoints: files, a folder, state dicts or `Checkpoint`s of the training, of which six at most are used;
            None: the weights as they are.
        opponents: also the items that speak against it.
        normalize: "cosine" divides by the lengths of the gradients (TracIn only), so that items with large losses are
            not first for every query; None: not.
        damping: added to the curvature, as a share of its mean; None: 0.1 for EK-FAC and
            "exact_last", 1e-3 for "exact" and Arnoldi.
        weight_decay: the factor of w^2 / 2 in what was minimised; 0 for decoupled decay (AdamW, fastai).
        output: which part of the model's output, as for `explain`.
        input_spec: facts about the inputs: class names, normalisation.
        item_names: a name per training item, or a function of its number.
        query_names: of the queries.
        words: what people read of the inputs, for the page: of token ids (N, T) a tokenizer, a vocabulary (id -> token)
            or, with a spec of kind "text", a function of an id; of a table a function of the model's inputs that gives
            each row's values. None: a table's numbers.
        batch_size: samples per pass; None: as many as fit.
        all_scores: keep the scores of all items.
        check: measure how well sums of scores foretell the last layer refitted on halves of the data (LDS; Park et al.
            2023); 32 small fits.
        index: a file of the training items' gradients ("tracin" and "fast"), made where there is none and read the next
            time; long gradients are projected (LoGra), and the result says how well. It belongs to these weights,
            checkpoints and items, which is checked but for the items' contents: delete it where these changed.
        seed: of random draws (EK-FAC's labels, halves of `check`, an index's projections).
        progress: None: a bar for long work.

    Returns:
        `Influences`.

    Raises:
        InputError: no class to ask for, labels that are missing, an impossible k.
        UnknownNameError: a method that there is not.

    Example:
        import torch
        import interp_plugins as ip
        x, y = torch.randn(40, 3), torch.randint(0, 2, (40,))
        net = torch.nn.Sequential(torch.nn.Linear(3, 2))
        found = ip.influence(net, x[:2], (x, y), k=3)
        tuple(found.indices.shape)  # -> (2, 3)
    """
    with concise():
        if check_k(k) is None:
            raise InputError("k is a number of items of at least 1.")
        if normalize not in (None, "cosine"):
            raise InputError(f'normalize is None or "cosine", got {normalize!r}.')
        own = _queries(model, inputs, labels)
        said = _outputs(model, own, output)
        spec = input_spec or _guess(own)
        walk = ItemWalk(train, model, check_chunk("batch_size", batch_size))
        chosen = _chosen(model, method, checkpoints, said, index, own)
        question, asked = _question(
            model, own, said, walk, loss, target, labels, chosen, layers, checkpoints, output, spec, batch_size,
            progress,
        )  # fmt: skip
        question.damping, question.weight_decay = damping, weight_decay
        question.seed, question.cosine = check_seed(seed), normalize == "cosine"
        scores = (chosen.scores(question) if index is None else scores_by_index(question, index)).cpu()
        lds = _lds(question, scores) if check else None
        names = item_names if callable(item_names) or item_names is None else lambda i: str(item_names[i])
        return _result(
            question, scores, k, opponents, own, asked, chosen, spec, names, tuple(query_names or ()), output,
            all_scores, lds, words,
        )  # fmt: skip


# -- reading what was asked ------------------------------------------------------------------------------------------


def _queries(model: Any, inputs: Any, labels: Any) -> Items:
    if isinstance(inputs, Mapping):
        args, kwargs = (), dict(inputs)
    else:
        args, kwargs = as_tuple(inputs), {}
    tensors = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor) and x.ndim]
    if not tensors:
        raise InputTypeError(f"inputs are a tensor or a tuple of tensors, samples first; got {describe(inputs)}.")
    n = len(tensors[0])
    args, kwargs = beside_weights((args, kwargs), model)
    return Items(tuple(range(n)), args, labels, kwargs)


def _outputs(model: Any, items: Items, output: Any) -> Tensor:
    """What the model says of the queries."""
    with frozen(model), torch.no_grad():
        return select_output(model(*items.inputs, **items.kwargs), output).detach()


def _guess(items: Items) -> InputSpec:
    first = next((x for x in items.inputs if isinstance(x, Tensor)), None)
    return InputSpec() if first is None or first.ndim < 2 else InputSpec.guess(first.cpu())


def head_of(model: Any, output: Tensor) -> tuple[str, nn.Linear] | None:
    """The last linear layer, where it gives the model's output."""
    for root in modules_of(model):
        found = [(name, m) for name, m in root.named_modules() if isinstance(m, nn.Linear)]
        if found and output.ndim == 2 and found[-1][1].out_features == output.shape[1]:
            return found[-1]
        if found and output.ndim == 1 and found[-1][1].out_features == 1:
            return found[-1]
    return None


def _chosen(model: Any, name: Any, checkpoints: Any, said: Tensor, index: Any, own: Items) -> InfluenceMethod:
    if name != "auto":
        found = method_named(name)
        if index is not None and not found.several:
            raise InputError(f'An index holds gradients, for method="tracin" or "fast"; {found.name} needs more.')
        return found
    head = head_of(model, said)
    if head is None:
        return method_named("tracin")
    if checkpoints is not None or index is not None:
        return method_named("fast")
    weights = head[1].weight.numel() + head[1].out_features
    small = weights <= MOST_BY_ITSELF and _sees_vectors(model, head[1], own)
    return method_named("exact_last" if small else "ekfac_last")


def _sees_vectors(model: Any, head: nn.Linear, own: Items) -> bool:
    """Whether the layer is called once, with a vector per sample."""
    seen: list[Any] = []
    one = own.rows(0, 1)
    with frozen(model), torch.no_grad(), hooked() as hooks:
        hooks.before(head, lambda module, args: seen.append(args[0].shape))
        model(*one.inputs, **one.kwargs)
    return len(seen) == 1 and len(seen[0]) == 2 and seen[0][0] == 1


def _question(
    model: Any, own: Items, said: Tensor, walk: ItemWalk, loss: Any, target: Any, labels: Any, method: InfluenceMethod,
    layers: Any, checkpoints: Any, output: Any, spec: InputSpec, batch_size: int | None, progress: bool | None,
) -> tuple[Question, tuple[str, ...]]:  # fmt: skip
    head = head_of(model, said)
    names = [layers] if isinstance(layers, str) else layers
    if method.head and names is None:
        if head is None:
            raise InputError(f"{method.title} works with the last linear layer, and this model ends in none: layers=.")
        names = [head[0]]
    moments = as_checkpoints(checkpoints)
    notes = []
    if method.several:
        if len(moments) > MOST_CHECKPOINTS:
            notes.append(f"{MOST_CHECKPOINTS} of {len(moments)} checkpoints, evenly spread")
        moments = with_rates(spread(moments, MOST_CHECKPOINTS))
    else:
        moments = moments[-1:]
    measure = SampleLoss(loss, output)
    asked, values, classes, texts = _asked(target, labels, said, measure, output, spec)
    queries = Items(own.numbers, own.inputs, values, own.kwargs)
    passes = GradientPasses(model, moments, names, batch_size=batch_size, progress=progress)
    made = Question(passes, walk, [queries], measure, asked, head[1] if head else None, classes=classes, notes=notes)
    return made, texts


def _asked(
    target: Any, labels: Any, said: Tensor, loss: SampleLoss, output: Any, spec: InputSpec
) -> tuple[Any, Any, Tensor | None, tuple[str, ...]]:
    """The measure of the queries, what it takes beside the output, their classes, and texts."""
    n = len(said)
    several = said.ndim > 1 and said.shape[1] > 1
    if isinstance(target, str) and target == "label":
        if labels is None:
            raise InputError(
                'target="label" asks why the loss of the true label is small: give labels=, one per query.'
            )
        labels = labels.to(said.device) if isinstance(labels, Tensor) else torch.as_tensor(labels, device=said.device)
        classes = labels.reshape(n).cpu() if labels.numel() == n and not labels.is_floating_point() else None
        texts = ("the label",) * n if classes is None else tuple(f"label {spec.label(int(c))}" for c in classes)
        return negative(loss), labels, classes, texts
    if isinstance(target, RatherThan):
        other = _index(_plain(target.that), spec)
        at = torch.full((n,), _index(_plain(target.this), spec))
        text = f"{spec.label(int(at[0]))} rather than {spec.label(other)}"
        return Margin(output, other), at, at, (text,) * n
    if (isinstance(target, str) and target == "predicted") or target is None:
        at = _mean_over_places(said).argmax(1) if several else torch.zeros(n, dtype=torch.long)
        kind = "predicted "
    else:
        many = target if isinstance(target, (list, tuple, Tensor)) else [target] * n
        if len(many) != n:
            raise InputError(f"target names {len(many)} classes for {n} queries: give one, or one per query.")
        at, kind = torch.tensor([_index(t, spec) for t in many]), ""
    if not several:
        return Margin(output), at, None, ("the output",) * n
    wrong = at[(at < 0) | (at >= said.shape[1])]
    if len(wrong):
        raise InputError(f"The model has classes 0 to {said.shape[1] - 1}, so no class {int(wrong[0])}.")
    return Margin(output), at, at.cpu(), tuple(f"{kind}{spec.label(int(c))}" for c in at)


def _mean_over_places(said: Tensor) -> Tensor:
    return said if said.ndim == 2 else said.flatten(2).mean(2)


def _plain(side: Any) -> Any:
    """The index of one side of a contrast."""
    found = getattr(side, "index", side)
    return found[0] if isinstance(found, tuple) and len(found) == 1 else found


def _index(target: Any, spec: InputSpec) -> int:
    if isinstance(target, (int, Tensor)) and not isinstance(target, bool):
        return int(target)
    if isinstance(target, str) and spec.vocab is not None:
        return spec.index_of(target)
    raise InputError(
        f'target is "predicted", "label", a class index (or a known name) or a RatherThan; got {target!r}.'
    )


# -- the answer ------------------------------------------------------------------------------------------------------


def _result(
    question: Question, scores: Tensor, k: int, opponents: bool, own: Items, asked: tuple[str, ...],
    method: InfluenceMethod, spec: InputSpec, names: Any, query_names: tuple[str, ...], output: Any, all_scores: bool,
    lds: float | None, words: Any,
) -> Influences:  # fmt: skip
    n = scores.shape[1]
    k = min(k, n)
    high = scores.sort(dim=1, descending=True, stable=True)
    low = scores.sort(dim=1, stable=True)
    less = k if opponents else 0
    shown = sorted(set(high.indices[:, :k].flatten().tolist()) | set(low.indices[:, :less].flatten().tolist()))
    picked = pick(question.walk, shown)
    numbers = tuple(i for items in picked for i in items.numbers)
    number = torch.tensor(numbers_of(question.walk, n))
    said = together([_outputs(question.passes.model, items, output) for items in picked])
    total = scores.abs().sum(1).clamp_min(1e-30)
    part = (high.values[:, :k].abs().sum(1) + low.values[:, :less].abs().sum(1)) / total
    passes = question.passes
    rates = [c.lr for c in passes.checkpoints]
    params = {
        "checkpoints": [c.title for c in passes.checkpoints],
        "learning_rates": rates,
        "weights": _weights_text(passes),
        "normalize": "cosine" if question.cosine else None,
        "sample_by_sample": dict(passes.fallbacks),
    }
    notes = list(question.notes)
    if len(rates) > 1 and set(rates) == {1.0}:
        notes.append("every checkpoint counts the same: no learning rates are known")
    if passes.fallbacks:
        notes.append(f"sample by sample: {', '.join(passes.fallbacks)}")
    x, items = _picture(own), together([_picture(q) for q in picked])
    return Influences(
        number[high.indices[:, :k]], high.values[:, :k].contiguous(), number[low.indices[:, :less]],
        low.values[:, :less].contiguous(), n, part.clamp(max=1.0), asked, method.title, params,
        _texts(numbers, together([items.labels for items in picked]), spec), _predictions(numbers, said, spec),
        {} if names is None else {i: str(names(i)) for i in numbers}, query_names, numbers, x, items,
        scores if all_scores else None, spec, lds, tuple(notes),
        read(own, picked, question.walk, spec, words),
    )  # fmt: skip


def _weights_text(passes: GradientPasses) -> str:
    chosen = passes.chosen
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in chosen))
    return f"weights of {layers[0]}" if len(layers) == 1 else f"weights of {len(layers)} layers"


def _picture(items: Items) -> Tensor | None:
    first = items.inputs[0] if items.inputs else None
    return first.detach().cpu() if isinstance(first, Tensor) else None


def _texts(numbers: Sequence[int], labels: Any, spec: InputSpec) -> dict[int, str]:
    if not isinstance(labels, Tensor) or labels.numel() != len(numbers):
        return {}
    flat = labels.reshape(-1)
    whole = not flat.is_floating_point()
    return {i: str(spec.label(int(v))) if whole else f"{float(v):.4g}" for i, v in zip(numbers, flat)}


def _predictions(numbers: Sequence[int], said: Tensor | None, spec: InputSpec) -> dict[int, str]:
    if said is None or said.ndim > 2:
        return {}
    if said.ndim == 2 and said.shape[1] > 1:
        return {i: str(spec.label(int(c))) for i, c in zip(numbers, said.argmax(1))}
    return {i: f"{float(v):.4g}" for i, v in zip(numbers, said.reshape(-1))}


def numbers_of(walk: ItemWalk, n: int) -> list[int]:
    """The numbers of the items in the order of the walk."""
    subset = walk.subset
    return list(range(n)) if subset is None else subset


def pick(walk: ItemWalk, places: Sequence[int]) -> list[Items]:
    """The items at some places of a walk, in that order, batch by batch: texts have lengths of their own."""
    wanted, at, parts = list(places), 0, []
    for items in walk:
        rows = [p - at for p in wanted if at <= p < at + len(items)]
        if rows:
            parts.append(items.chosen(rows))
        at += len(items)
        if not wanted or at > wanted[-1]:
            break
    return parts


def together(parts: Sequence[Any]) -> Tensor | None:
    """Tensors as one, samples first; None where they are of different shapes, or no tensors."""
    if not parts or not all(isinstance(x, Tensor) for x in parts) or len({x.shape[1:] for x in parts}) > 1:
        return None
    return torch.cat(list(parts))


def _lds(question: Question, scores: Tensor) -> float:
    """Linear datamodelling score on the last layer (`influence.check`)."""
    from interp_plugins.influence.check import lds

    return lds(question, scores)
