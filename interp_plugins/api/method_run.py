"""`MethodRun`: what all methods of one call share, and running one of them: from a bound method to an `Explanation`.

`explain` makes one and turns what comes of it into explanations; a metric that asks a method again wants maps alone.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.api.binding import Bound
from interp_plugins.api.checks import check_found
from interp_plugins.api.prediction import target_probability
from interp_plugins.core.baseline import IdBaseline, Sample, as_baselines
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.fixed import unmarked
from interp_plugins.core.forward import Forward, one_per_row
from interp_plugins.core.global_random import seeded_now
from interp_plugins.core.layers import Layer, layer_name, resolve_layer
from interp_plugins.core.multi_target import MultiTarget, part_of
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.random import make_generator
from interp_plugins.core.report import collect
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked
from interp_plugins.core.tensors import as_tuple, is_float, like
from interp_plugins.core.two_classes import plain_index
from interp_plugins.engine import clean_scores, forget_first_pass, precision_of, read_meter

_PASSES = ("forward_passes", "backward_passes", "compiled_rows", "shared_by_targets", "n_windows")


@dataclass(frozen=True)
class MethodRun:
    """What all methods of one call share."""

    func: Callable[..., Any]
    inputs: Any
    xs: tuple[Tensor, ...]
    spec: InputSpec
    args: Any
    feature_mask: Any
    batch_size: int | None
    seed: int
    progress: bool | None
    baselines: Any
    model: dict[str, Any]
    delta: bool = True  # whether completeness errors are asked for

    def run(self, bound: Bound, asked: Sequence[Asked], prediction: Prediction) -> list[Explanation]:
        """One method for some targets: in shared passes where it can (`core.multi_target`), else one after another."""
        if len(asked) > 1 and bound.shares:
            return self._run(bound, asked, prediction)
        return [exp for one in asked for exp in self._run(bound, [one], prediction)]

    def _run(self, bound: Bound, asked: Sequence[Asked], prediction: Prediction) -> list[Explanation]:
        count, n = len(asked), self.xs[0].shape[0]
        together = asked[0] if count == 1 else Asked(MultiTarget(tuple(a.target for a in asked)), None, ())
        kwargs, baselines = self._arguments(bound, together)
        begin = time.perf_counter()
        with collect() as report:
            found = self._attributed(bound, kwargs)
        forget_first_pass()
        seconds = (time.perf_counter() - begin) / count
        if count > 1:
            report["shared_by_targets"] = count
        parts = [(found, report)] if count == 1 else [part_of((found, report), k, count, n) for k in range(count)]
        return [
            self._explanation(bound, one, prediction, part, facts, kwargs, baselines, seconds)
            for one, (part, facts) in zip(asked, parts, strict=True)
        ]

    def _attributed(self, bound: Bound, kwargs: Mapping[str, Any]) -> Any:
        seeded_now(bound.works.foreign)
        return bound.method.attribute(like(self.inputs, self.xs), **kwargs)

    def maps(self, bound: Bound, asked: Asked) -> tuple[Tensor, ...]:
        """The maps of one target alone: one per input, or per tensor of a layer, on the CPU."""
        kwargs, _ = self._arguments(bound, asked)
        return as_tuple(_cpu(self._attributed(bound, kwargs)))

    def _explanation(
        self,
        bound: Bound,
        asked: Asked,
        prediction: Prediction,
        result: Any,
        report: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        baselines: tuple[Tensor, ...] | None,
        seconds: float,
    ) -> Explanation:
        """What a method gave for one target, on the CPU, with its scores."""
        delta = None
        if kwargs.get("return_convergence_delta"):
            result, delta = result
            delta = delta.reshape(self.xs[0].shape[0], -1).mean(1)
        check_found(bound.name, result, self.xs)
        score = asked.target(prediction.output)
        baseline_score = report.get("baseline_score")
        if baseline_score is None and delta is not None and baselines is not None:
            n = self.xs[0].shape[0]
            forward = Forward.of(self.func, n, asked.target, self.args)
            baseline_score = one_per_row(clean_scores(forward, baselines), n)
        labels = prediction.classes if prediction.several is None else None
        return Explanation(
            attributions=_cpu(result),
            inputs=_cpu(like(self.inputs, self.xs)),
            baselines=_cpu(like(self.inputs, baselines)) if baselines is not None else None,
            method=bound.name,
            title=bound.title,
            target=asked.indices,
            target_label=asked.labels,
            prediction=labels,
            prediction_label=prediction.in_words(self.spec),
            region=_cpu(asked.region) if asked.region is not None else None,
            probability=target_probability(asked, prediction),
            score=_cpu(score) if score.ndim == 1 else None,
            baseline_score=_cpu(baseline_score) if baseline_score is not None else None,
            convergence_delta=_cpu(delta) if delta is not None else None,
            params=self._params(bound),
            layer=self._layer(bound),
            spec=self.spec,
            seed=self.seed,
            seconds=seconds,
            meta=self._meta(report, bound),
        )

    def _arguments(self, bound: Bound, asked: Asked) -> tuple[dict[str, Any], tuple[Tensor, ...] | None]:
        takes, kwargs = bound.takes, dict(bound.params)
        optional = {
            "target": asked.target,
            "additional_forward_args": self.args,
            "feature_mask": self.feature_mask,
            "seed": self.seed,
            "progress": self.progress,
        }
        if bound.works.foreign and asked.indices is not None:
            optional["target"] = plain_index(asked)
        if bound.works.foreign:
            optional["additional_forward_args"] = unmarked(self.args)
        kwargs |= {k: v for k, v in optional.items() if k in takes and v is not None}
        for name in ("batch_size", "internal_batch_size"):
            if self.batch_size is not None and name in takes:
                kwargs[name] = self.batch_size
                break
        baselines: tuple[Tensor, ...] | None = None
        wanted = self.baselines if self.baselines is not None else kwargs.pop("baselines", None)
        if "baselines" in takes:
            if bound.works.baselines == "distribution":
                kwargs["baselines"] = self._distribution()
            else:
                rng = make_generator(self.seed)
                vectors = bound.traits.embeds_ids
                baselines = as_baselines(wanted, self.xs, self.spec, rng, template=self.inputs, vectors=vectors)
                given = wanted if isinstance(wanted, tuple) else (wanted,) * len(baselines)
                means = [vectors and isinstance(b, Sample) and not is_float(x) for b, x in zip(given, self.xs)]
                kwargs["baselines"] = like(
                    self.inputs, [g if mean else b for g, b, mean in zip(given, baselines, means, strict=True)]
                )
        if self.delta and "return_convergence_delta" in takes and bound.traits.asks_delta:
            kwargs["return_convergence_delta"] = True
        return kwargs, baselines

    def _params(self, bound: Bound) -> dict[str, Any]:
        """The parameters as they can be shown and saved, with the baseline that was used."""
        params = {k: _readable(v) for k, v in bound.params.items()}
        if "baselines" in bound.takes:
            used = params.get("baselines", "zero") if self.baselines is None else self.baselines
            params["baselines"] = used if isinstance(used, (str, int, float)) else "given"
        if self.feature_mask is not None and "feature_mask" in bound.takes:
            params["feature_mask"] = "given"
        elif "feature_mask" in params:
            params["feature_mask"] = "cells"  # those of `attr/shared/grid_features.py`
        return params

    def _distribution(self) -> Any:
        """Baselines as rows to draw from; a name or number gives one row per sample, None a single zero row."""
        if self.baselines is None:
            made = as_baselines(None, self.xs, vectors=True)
            return like(self.inputs, [b[:1] for b in made])
        if isinstance(self.baselines, (str, int, float)):
            made = as_baselines(self.baselines, self.xs, self.spec, make_generator(self.seed), vectors=True)
            return like(self.inputs, made)
        if not isinstance(self.baselines, (Sample, IdBaseline, tuple)):
            return self.baselines
        rows = [b.rows if isinstance(b, Sample) else b for b in as_tuple(self.baselines)]
        if not all(isinstance(b, Tensor) for b in rows):
            return like(self.inputs, as_baselines(self.baselines, self.xs, vectors=True))
        return like(self.inputs, rows)

    def _layer(self, bound: Bound) -> str | None:
        layer = getattr(bound.innermost, "layer", None)
        if layer is None or bound.works.site == "neuron":
            return None
        names = []
        for one in layer if isinstance(layer, list) else [layer]:
            module = resolve_layer(self.func, one).module
            side = " (input)" if isinstance(one, Layer) and one.io == "input" else ""
            names.append((layer_name(self.func, module) if isinstance(module, nn.Module) else str(module)) + side)
        return ", ".join(dict.fromkeys(names))

    def _meta(self, report: Mapping[str, Any], bound: Bound) -> dict[str, Any]:
        from interp_plugins import __version__

        n = self.xs[0].shape[0]  # a method inside NoiseTunnel reports noisy copies, which are no samples
        per_sample = {k: list(report[k]) for k in report.get("per_sample", ()) if len(report[k]) == n}
        precision = precision_of(report)
        if precision:  # a store keeps what is said of each sample
            lower = precision["ran"] != "float32"
            per_sample["precision_error"] = [float(precision.get("map_error", 0.0)) if lower else 0.0] * n
        passes = {k: report[k] for k in _PASSES if isinstance(report.get(k), int)}
        layer = getattr(bound.innermost, "layer", None)
        found = layer.found if isinstance(layer, Layer) else ""
        versions = {
            "interp_plugins": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        return {
            **self.model,
            **passes,
            "engine": read_meter(report),
            **{k: report[k] for k in ("rows", "entries_per_sample") if k in report},
            **({"precision": precision} if precision else {}),
            "versions": versions,
            **({"per_sample": per_sample} if per_sample else {}),
            **({"layer_found": found} if found else {}),
            **({"remark": remark} if (remark := self._remark(bound)) else {}),
        }

    def _remark(self, bound: Bound) -> str:
        """What pictures say of how the map was made."""
        if bound.traits.remark is None:
            return ""
        usual = bound.works.defaults
        return bound.traits.remark(bound.params, usual(self.xs, self.spec) if callable(usual) else usual)


def _cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor).cpu()
    if isinstance(value, list):
        if len(value) == 1:
            return _cpu(value[0])
        return tuple(_cpu(v) for one in value for v in as_tuple(one))
    if isinstance(value, tuple):
        return tuple(_cpu(v) for v in value)
    raise InputError(
        f"The method's attribute() returned a {type(value).__name__}; expected a tensor or tuple of tensors."
    )


def _readable(value: Any) -> Any:
    """Parameters as they can be shown and saved."""
    return value if isinstance(value, (bool, int, float, str, tuple, type(None))) else repr(value)[:200]
