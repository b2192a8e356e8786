"""`compare_methods`: which method for this model? Checks that a map must pass, then faithfulness, places, and cost.

A method is ruled out where its maps hardly notice that the upper half of the net is random, where they find the score's
reasons no better than noise or than maps that ignore the model, or where it promises completeness and misses it. Those
left are ranked by the symmetric relevance gain; what the samples cannot tell apart is decided by masks, where they are
given, and by the number of passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.asking import ask_once
from interp_plugins.api.binding import as_pairs
from interp_plugins.api.samples import SampleBatch, SampleStream
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.errors import InputError, RandomisationWarning, concise
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.literals import rather_than
from interp_plugins.core.other_weights import held_by
from interp_plugins.core.registry import Budget
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.core.truth import Reading
from interp_plugins.metrics.candidates import able, candidates
from interp_plugins.metrics.comparison import Check, Comparison
from interp_plugins.metrics.controls import BLIND
from interp_plugins.metrics.evaluation import Evaluation, run
from interp_plugins.metrics.maps import asked_of, mapped, taken
from interp_plugins.metrics.model_check import asked_again, learnt, not_had
from interp_plugins.metrics.verdicts import FAITHFUL, NEEDED, PLACED, RANDOMISED, judged

STEPS = {"fast": 10, "normal": 20, "thorough": 40}


def compare_methods(
    model: Callable[..., Any],
    data: Any,
    methods: Methods | None = None,
    *,
    target: Any = None,
    masks: Any = None,
    ids: Sequence[int | str] | Tensor | None = None,
    n: int | None = 64,
    budget: Budget = "normal",
    baselines: Any = None,
    features: Any = None,
    level: float = 0.95,
    seed: int = 0,
    input_key: Any = None,
    input_fn: Callable[[Any], Any] | None = None,
    label_key: Any = None,
    label_fn: Callable[[Any], Any] | None = None,
    id_key: Any = None,
    progress: bool | None = None,
    **options: Any,
) -> Comparison:
    """Compare methods on samples of one model, and say which to use, why, and what was not tested.

    Args:
        model: an `nn.Module` or any callable, as for `interp_plugins.explain`; it is left exactly as it was.
        data: as for `evaluate`: tensors, or a loader of batches; labels in it say whether the model is right at all.
        methods: as for `interp_plugins.explain`; None: some of each family that run on this model, more of them with a
            larger `budget`.
        target: as for `evaluate`.
        masks: where the thing lies, as for `evaluate`: they decide among methods that are equally faithful.
        ids: one per sample of the data, ints or texts; None: their numbers.
        n: the first so many samples; None: all.
        budget: "fast", "normal" or "thorough": how many methods, steps and draws.
        baselines: what removed parts are replaced by, and the methods' baseline; as for `evaluate`.
        features: what goes together where parts are removed, as for `removal_curves`.
        level: of the intervals.
        seed: of all draws.
        input_key: the part of a batch that is the input; None: the batch, or its first element.
        input_fn: batch -> input, instead.
        label_key: the part of a batch that is the ground truth; None: the other part of two.
        label_fn: batch -> ground truth, instead.
        id_key: the part of a batch that names the samples.
        progress: None = a bar for long work, True, False.
        **options: further arguments of `interp_plugins.explain`, and the methods' own parameters; a method takes those
            that it knows.

    Returns:
        A `Comparison`: `.best` (None where no method passed), `.why()`, `.table`, `.show()`, `.to_html(path)`.

    Raises:
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    References:
        Gates: Adebayo et al. 2018, arXiv:1810.03292. Ranking: Bluecher et al. 2024, arXiv:2401.06465.

    Example:
        found = compare_methods(model, x, ("saliency", "input_x_gradient"), budget="fast")
        found.best, found.why()
    """
    with concise():
        reading = Reading(input_key, input_fn, label_key, label_fn, id_key)
        if baselines is not None:
            options["baselines"] = baselines
        target = rather_than(target, options.pop("against", None))
        batches = SampleStream(model, data, target, {}, reading, ids, masks, None, n)
        made = Comparing(methods, features=features, budget=budget, level=level, seed=seed, options=options)
        return made.of(batches, progress)


class Comparing:
    """A comparison in the making, of batches that somebody else reads.

    Args:
        methods: as for `interp_plugins.explain`; None: some of each family that run on the model.
        features: what goes together where parts are removed, as for `removal_curves`.
        budget: "fast", "normal" or "thorough": how many methods, steps and draws.
        level: of the intervals.
        seed: of all draws.
        options: further arguments of `interp_plugins.explain`, and the methods' own parameters.
    """

    def __init__(
        self,
        methods: Methods | None = None,
        *,
        features: Any = None,
        budget: Budget = "normal",
        level: float = 0.95,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ):
        candidates("image", budget)  # an unknown budget is said here
        self.methods, self.features, self.budget = methods, features, budget
        self.level, self.seed, self.options = level, seed, dict(options or {})

    def of(self, stream: Iterable[SampleBatch], progress: bool | None = None) -> Comparison:
        """Compare on these samples.

        Args:
            stream: batches.
            progress: None = a bar for long work, True, False.

        Raises:
            InputError: no samples.
        """
        with preserved_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RandomisationWarning)  # the check is made here, on this very model
            batches = list(stream)
            if not batches:
                raise InputError("There is no sample to compare methods on.")
            chosen, left_out = self._chosen(batches[0])
            model, untested = self._of_model(batches)
            metrics = self._metrics(batches, redraws=not untested)
            options = {"budget": self.budget, **self.options}
            made = Evaluation(chosen, metrics, features=self.features, controls=BLIND, seed=self.seed, options=options)
            run(made, batches, progress)
            prices = self._prices(chosen, batches[0])
        untested += self._not_asked(metrics, batches)
        return judged(made, model, left_out, untested, prices, level=self.level, seed=self.seed)

    def _chosen(self, batch: SampleBatch) -> tuple[Any, dict[str, str]]:
        """The methods, and those that cannot explain this model."""
        if self.methods is not None:
            return self.methods, {}  # what is wrong with those that the user named is said
        names = candidates(kind_of(batch, self.options), self.budget)
        found, left_out = able(
            names, batch, lambda name: {"budget": self.budget, **taken(name, self.options)}, self.seed
        )
        if not found:
            raise InputError(
                f"No method can explain this model. {next(iter(left_out))}: {next(iter(left_out.values()))}"
            )
        return found, left_out

    def _prices(self, chosen: Any, batch: SampleBatch) -> list[int]:
        """Passes a sample of each method alone, in order: beside others some of its passes are theirs."""
        prices = []
        for what, params in as_pairs(chosen):
            one = batch.rows([0])
            options = {"budget": self.budget, **taken(what, self.options), **one.options}
            made = mapped(one, {what: params}, (), options, self.seed)
            prices.append(sum(map(sum, made.rows.values())) - 1)  # less the pass that settled what is asked
        return prices

    def _metrics(self, batches: Sequence[SampleBatch], redraws: bool) -> dict[str, dict[str, Any]]:
        metrics: dict[str, dict[str, Any]] = {FAITHFUL: {"steps": STEPS[self.budget]}}
        if redraws:
            metrics |= {RANDOMISED: {}, NEEDED: {"steps": STEPS[self.budget]}}
        if all(batch.masks is not None for batch in batches):
            metrics |= {PLACED: {}, "mask_auc": {}}
        return metrics

    def _of_model(self, batches: Sequence[SampleBatch]) -> tuple[list[Check], list[str]]:
        """Checks of the model, and what could not be asked of it."""
        try:
            held_by(batches[0].model)
        except InputError as error:
            why = not_had(error)
            return learnt(None, None, why), [f"whether maps notice other weights: {why}."]
        answers = [found for batch in batches if (found := self._answers(batch)) is not None]
        whole = len(answers) == len(batches)
        together = [torch.cat(column) for column in zip(*answers, strict=True)] if whole else None
        known = [batch.labels.cpu() for batch in batches if batch.labels is not None]
        truth = torch.cat(known) if whole and len(known) == len(batches) else None
        return learnt(together, truth, "it gives no probabilities of classes"), []

    def _answers(self, batch: SampleBatch) -> list[Tensor] | None:
        options = {**self.options, **batch.options}
        subject = ask_once(batch.model, batch.inputs, batch.target, seed=self.seed, **asked_of(options))
        known: dict[str, Any] = {k: options.get(k) for k in ("activation", "threshold")}
        return asked_again(
            subject.func, subject.inputs, options.get("additional_forward_args"), seed=self.seed, **known
        )

    def _not_asked(self, metrics: Mapping[str, Any], batches: Sequence[SampleBatch]) -> list[str]:
        found = []
        if PLACED not in metrics:
            found.append("whether maps lie on the thing that matters, since no masks were given.")
        if any(batch.labels is None for batch in batches):
            found.append("whether the model is right, since the samples came without labels that say one class each.")
        return [*found, "whether maps stay alike under small changes of the input (metrics of robustness say)."]


def kind_of(batch: SampleBatch, options: Mapping[str, Any]) -> str:
    """The kind of data of a batch, as it was said, or guessed from its shape."""
    spec = {**options, **batch.options}.get("input_spec")
    first = next(iter(batch.inputs.values())) if isinstance(batch.inputs, Mapping) else as_tuple(batch.inputs)[0]
    return spec.kind if spec is not None else InputSpec.guess(first).kind
