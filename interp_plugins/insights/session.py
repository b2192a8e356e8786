"""`Session`: the state behind one viewer. Messages in, messages out; it knows nothing of pages, sockets or notebooks.

Each message is a mapping with an `id` and a `type`; each answer carries the `id` and is a "result", an "error" or a
"progress". Explaining runs in a thread of the session's own, one job at a time, and can be cancelled between samples.
"""

from __future__ import annotations

import base64
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import BASELINES
from interp_plugins.core.errors import InputError, InterpError
from interp_plugins.core.explain import explain
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.prediction import Prediction, predict
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.tensors import check_inputs, like, take_rows

from .forms import forms, typed
from .records import SCHEMA, by_input, input_record, json_number, map_record, palettes, plain
from .report import file_html

Send = Callable[[dict[str, Any]], None]

_TOP = 5  # classes offered per sample
_LOCKS: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


def _lock_of(model: Any) -> threading.Lock:
    """One lock per model in this process: two sessions must not freeze the same model at once."""
    with _LOCKS_GUARD:
        try:
            return _LOCKS.setdefault(model, threading.Lock())
        except TypeError:  # no weak references to it
            return threading.Lock()


class Session:
    """What one viewer looks at, and the models that explain it.

    Args:
        models: a model, or a mapping name -> model; all take the same inputs. Several are shown above each other.
        inputs: tensor or tuple of tensors, batch first, in the models' units.
        labels: index of the true class per sample; None: unlabelled.
        names: one name per sample.
        tokens: one list of tokens per sample, for text.
        input_spec: kind of data, normalisation, class and feature names; guessed if None.
        additional_forward_args: as for `explain`.
        forward_kwargs: as for `explain`.
        output: as for `explain`.
        activation: as for `explain`.
        baselines: further baselines to choose from, by name: whatever `explain` takes, tensors with a row per sample.
        input_names: a name per input, for models with several.
        target: what is explained where the page names no class: as for `explain`, or "label" for the true class.
        method: the method chosen at first.
        title: heading of the page.
        seed: seed of random methods.

    Raises:
        InputError: labels or names for another number of samples; no model.
    """

    def __init__(
        self,
        models: Callable[..., Any] | Mapping[str, Callable[..., Any]],
        inputs: Tensor | tuple[Tensor, ...],
        *,
        labels: Sequence[int | None] | None = None,
        names: Sequence[str] | None = None,
        tokens: Sequence[Sequence[str]] | None = None,
        input_spec: InputSpec | None = None,
        additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
        activation: Callable[[Tensor], Tensor | None] | None = None,
        baselines: Mapping[str, Any] | None = None,
        input_names: Sequence[str] | None = None,
        target: Any = None,
        method: str = "integrated_gradients",
        title: str = "Insights",
        seed: int = 0,
    ):
        self.models = dict(models) if isinstance(models, Mapping) else {type(models).__name__: models}
        if not self.models:
            raise InputError("A session needs at least one model; got an empty mapping.")
        self.inputs, self.seed, self.target = inputs, seed, target
        self.baselines, self.input_names = dict(baselines or {}), input_names
        xs = check_inputs(inputs)
        self.n, self.spec = xs[0].shape[0], as_spec(input_spec, xs[0])
        self._call = {
            "additional_forward_args": additional_forward_args,
            "forward_kwargs": forward_kwargs,
            "output": output,
            "activation": activation,
        }
        self.labels = self._checked("labels", labels)
        self.names = self._checked("names", names)
        self.tokens = self._checked("lists of tokens", tokens)
        self.notes: dict[str, Any] = {}
        self.found: dict[int, list[tuple[int, Explanation]]] = {i: [] for i in range(self.n)}
        self._cancelled: set[int] = set()
        self._closed = False
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="insights")
        predictions = [self._predict(model, xs) for model in self.models.values()]
        vocab = self.spec.vocab
        self.catalogue: dict[str, Any] = {
            "schema": SCHEMA,
            "title": title,
            "live": True,
            "classes": None if vocab is None else [str(plain(c)) for c in vocab],
            "models": [{"name": name} for name in self.models],
            "methods": forms(xs, self.spec),
            "method": method,
            "baselines": [*self.baselines, *BASELINES],
            "palettes": palettes(),
            "samples": [self._sample(i, predictions) for i in range(self.n)],
        }

    def _checked(self, what: str, values: Sequence[Any] | None) -> list[Any]:
        if values is None:
            return [None] * self.n
        if len(values) != self.n:
            raise InputError(f"{len(values)} {what} came for {self.n} samples; give one per sample.")
        return [v.item() if hasattr(v, "item") else v for v in values]

    # -- what is known without any map ----------------------------------------------------------------------------

    def _predict(self, model: Callable[..., Any], xs: tuple[Tensor, ...]) -> Prediction:
        kwargs, output = self._call["forward_kwargs"], self._call["output"]
        func = Call(model, kwargs, output) if kwargs or output is not None else model
        with _lock_of(model), frozen(func, seed=self.seed):
            forward = Forward.of(func, self.n, additional_forward_args=self._call["additional_forward_args"])
            return predict(forward, xs, self._call["activation"])

    def _sample(self, i: int, predictions: Sequence[Prediction]) -> dict[str, Any]:
        label = self.labels[i]
        return {
            "name": str(self.names[i] or ""),
            "label": label,
            "labelText": None if label is None else str(self.spec.label(label)),
            "completenessError": None,
            "models": [self._outcome(i, label, p) for p in predictions],
        }

    def _outcome(self, i: int, label: int | None, prediction: Prediction) -> dict[str, Any]:
        classes = prediction.classes
        if classes is None:
            values = prediction.output[i].reshape(-1)
            text = f"{values.item():.4g}" if values.numel() == 1 else None
            nothing = {"prediction": None, "probability": None, "correct": None, "loss": None}
            return {**nothing, "predictionText": text, "top": []}
        p = prediction.probabilities
        row = p[i].float() if p is not None and p.ndim == 2 else None
        scores = row if row is not None else prediction.output[i].float()
        order = scores.argsort(descending=True)[:_TOP].tolist()
        known = row is not None and label is not None
        return {
            "prediction": classes[i],
            "predictionText": str(self.spec.label(classes[i])),
            "probability": None if row is None else json_number(row[classes[i]]),
            "correct": None if label is None else classes[i] == label,
            "loss": json_number(-torch.log(row[label].clamp_min(1e-30))) if known and row is not None else None,
            "top": [
                {"index": k, "label": str(self.spec.label(k)), "p": None if row is None else json_number(row[k])}
                for k in order
            ],
        }

    # -- messages -------------------------------------------------------------------------------------------------

    def receive(self, message: Mapping[str, Any], send: Send) -> None:
        """Answer a message through `send`, which may be called from another thread. Never raises for its content."""
        try:
            number, kind = message["id"], message["type"]
            quick = {"input": self._input, "maps": self._maps, "export": self._export}
            if kind == "cancel":
                self._cancelled.add(message["job"])
            elif kind == "notes":
                self.notes = dict(message["notes"])
            elif kind == "explain":
                self._pool.submit(self._answer, number, self._explain, message, send)
            elif kind in quick:
                self._answer(number, quick[kind], message, send)
            else:
                raise InputError(f"Unknown message type {kind!r}; known: cancel, explain, notes, {', '.join(quick)}.")
        except (KeyError, TypeError, InterpError) as err:
            number = message.get("id") if isinstance(message, Mapping) else None
            send({"id": number, "type": "error", "error": f"The message could not be read: {err}"})

    def close(self) -> None:
        """End the session: a running job stops at the next sample, later ones do not begin."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, number: int, work: Callable[[Mapping[str, Any], Send], Any], message: Any, send: Send) -> None:
        try:
            send({"id": number, "type": "result", "result": work(message, send)})
        except Exception as err:  # whatever a model raises belongs into the page, not into a dead thread
            send({"id": number, "type": "error", "error": f"{type(err).__name__}: {err}"})

    def _row(self, message: Mapping[str, Any]) -> int:
        i = message["sample"]
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < self.n:
            raise InputError(f"There is no sample {i!r}; there are {self.n}.")
        return i

    def _one(self, i: int) -> Tensor | tuple[Tensor, ...]:
        many = self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)
        return like(self.inputs, [x[i : i + 1] for x in many])

    def _input(self, message: Mapping[str, Any], send: Send) -> dict[str, Any]:
        i = self._row(message)
        inputs = self._one(i)
        shown = inputs[0] if isinstance(inputs, tuple) else inputs
        return input_record(Explanation(attributions=shown, inputs=inputs, method="input", spec=self.spec), 0)

    def _maps(self, message: Mapping[str, Any], send: Send) -> list[dict[str, Any]]:
        return [record for m, exp in self.found[self._row(message)] for record in self._records(m, exp)]

    def _records(self, m: int, exp: Explanation) -> list[dict[str, Any]]:
        """The maps of one explanation, one per input, with the model's name where there are several."""
        model = "" if len(self.models) == 1 else f", {list(self.models)[m]}"
        made = [map_record(part, 0) for part in by_input(exp, self.input_names)]
        return [{**record, "title": f"{record['title']}{model}"} for record in made]

    def _explain(self, message: Mapping[str, Any], send: Send) -> dict[str, Any]:
        """Explain samples one by one; a sample that fails does not stop the others."""
        rows = [self._row({"sample": i}) for i in message["samples"]]
        which = str(message.get("model", "0"))
        chosen = range(len(self.models)) if which == "all" else [int(which)]
        records: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        done = 0
        for i in rows:
            for m in chosen:
                if self._closed or message["id"] in self._cancelled:
                    return {"records": records, "failures": failures, "cancelled": True}
                try:
                    exps = self._explain_one(i, list(self.models.values())[m], message)
                    self.found[i] += [(m, exp) for exp in exps]
                    records += [{"sample": i, "record": r} for exp in exps for r in self._records(m, exp)]
                except Exception as err:
                    failures.append({"sample": i, "error": f"{type(err).__name__}: {err}"})
                done += 1
                send({"id": message["id"], "type": "progress", "done": done, "total": len(rows) * len(chosen)})
        if failures and not records and len({f["error"] for f in failures}) == 1:
            raise InputError(failures[0]["error"])
        return {"records": records, "failures": failures, "cancelled": False}

    def _explain_one(self, i: int, model: Callable[..., Any], message: Mapping[str, Any]) -> list[Explanation]:
        asked = message.get("baseline", "default")
        baseline = None if asked == "default" else _rows(self.baselines.get(asked, asked), i, self.n)
        target = message.get("target")
        if target is None:
            target = self.labels[i] if self.target == "label" else self.target
        call = dict(self._call)
        args = call["additional_forward_args"]
        call["additional_forward_args"] = _rows(args, i, self.n)
        call["forward_kwargs"] = _rows(call["forward_kwargs"], i, self.n)
        with _lock_of(model):
            exps = explain(
                model,
                self._one(i),
                methods={message["method"]: typed(message.get("params", {}))},
                target=target,
                baselines=baseline,
                input_spec=self.spec,
                seed=self.seed,
                progress=False,
                **call,
            )
        tokens = None if self.tokens[i] is None else (list(self.tokens[i]),)
        return [replace(exp, tokens=exp.tokens or tokens) for exp in exps]

    # -- saving ---------------------------------------------------------------------------------------------------

    def explanations(self) -> Explanations:
        """Every map made so far, sample by sample."""
        return Explanations([exp for i in range(self.n) for _, exp in self.found[i]])

    def _export(self, message: Mapping[str, Any], send: Send) -> dict[str, Any]:
        kind = message["format"]
        if kind == "safetensors":
            made = self.explanations()
            if not len(made):
                raise InputError("There is no map to save yet; explain something first.")
            with tempfile.TemporaryDirectory() as folder:
                data = made.save(Path(folder) / "explanations.safetensors").read_bytes()
            return _file("explanations.safetensors", "application/octet-stream", data)
        if kind == "html":
            return _file("insights.html", "text/html", self.to_html().encode())
        raise InputError(f"Unknown format {kind!r}; known: html, safetensors.")

    def to_html(self) -> str:
        """The viewer with every map made so far in one file, without the model."""
        about = {**self.catalogue, "live": False}
        inputs = [self._input({"sample": i}, lambda _: None) for i in range(self.n)]
        maps = [self._maps({"sample": i}, lambda _: None) for i in range(self.n)]
        return file_html({"catalogue": about, "inputs": inputs, "maps": maps, "notes": self.notes})


def _rows(tree: Any, i: int, n: int) -> Any:
    """The arguments of one sample."""
    return None if tree is None else take_rows(tree, torch.tensor([i]), n)


def _file(name: str, kind: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "type": kind, "data": base64.b64encode(data).decode("ascii")}
