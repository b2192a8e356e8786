"""`Session`: the state behind one viewer. Messages in, messages out; it knows nothing of pages, sockets or notebooks.

Each message is a mapping with an `id` (a number) and a `type`; each answer carries the `id` and is a "result", an
"error" or a "progress". Whatever comes is answered, and changes nothing where it cannot be understood. Explaining runs
in a thread of the session's own, one job at a time, and can be cancelled: it ends before the model's next pass.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from interp_plugins.api.explain import DEFAULT_METHOD
from interp_plugins.core.cancel import Cancelled, cancellable, check_cancelled
from interp_plugins.core.errors import InputError, InterpError, concise
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.literals import rather_than
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.insights.records import Record, as_records, entries
from interp_plugins.insights.report import catalogue, file_html
from interp_plugins.insights.subject import Ask, Made, NoSamples, Subject
from interp_plugins.insights.tensors import Tensors
from interp_plugins.insights.wire import as_json, input_record, made_records
from interp_plugins.insights.worker import Worker

Send = Callable[[dict[str, Any]], None]
Work = Callable[[Mapping[str, Any], Send], Any]
_PLACE = re.compile(r"[0-9]+(/[0-9]+)?")  # a sample, or an item of a record
_LARGEST = 2**53  # beyond, numbers of a page are not exact


class Session:
    """What one viewer looks at, and the models that explain it.

    Args:
        models: a model, or a mapping name -> model; all take the same inputs. Several (also the checkpoints of one
            training) are shown above each other.
        inputs: tensor or tuple of tensors, batch first, in the models' units.
        labels: the ground truth per sample: index of the class, several indices, or a value; None: unlabelled.
        names: one name per sample.
        tokens: one list of tokens per sample, for text.
        input_spec: kind of data, normalisation, class and feature names; guessed if None.
        additional_forward_args: as for `explain`.
        forward_kwargs: as for `explain`.
        output: as for `explain`.
        activation: as for `explain`.
        threshold: as for `explain`.
        baselines: further baselines to choose from, by name: whatever `explain` takes, tensors with a row per sample.
        input_names: a name per input, for models with several.
        target: what is explained where the page names no class: as for `explain`, or "label" for the true class.
        against: why `target` rather than this one: anything that `target` may be.
        method: the method chosen at first.
        title: heading of the page.
        seed: seed of random methods.
        records: results that are shown beside, as for `write_report`.

    Raises:
        InputError: labels or names for another number of samples; no model.

    Example:
        session = Session(model, x, labels=labels, names=["first", "second"])
    """

    def __init__(
        self,
        models: Callable[..., Any] | Mapping[str, Callable[..., Any]],
        inputs: Tensor | tuple[Tensor, ...],
        *,
        labels: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        tokens: Sequence[Sequence[str]] | None = None,
        input_spec: InputSpec | None = None,
        additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
        activation: Callable[[Tensor], Tensor | None] | None = None,
        threshold: float | None = None,
        baselines: Mapping[str, Any] | None = None,
        input_names: Sequence[str] | None = None,
        target: Any = None,
        against: Any = None,
        method: str = DEFAULT_METHOD,
        title: str = "Insights",
        seed: int = 0,
        records: Iterable[Any] = (),
    ):
        with concise():
            subject = Tensors(
                models,
                inputs,
                labels=labels,
                names=names,
                tokens=tokens,
                input_spec=input_spec,
                additional_forward_args=additional_forward_args,
                forward_kwargs=forward_kwargs,
                output=output,
                activation=activation,
                threshold=threshold,
                baselines=baselines,
                input_names=input_names,
                target=rather_than(target, against),
                seed=seed,
            )
            beside = as_records(records)
            self._begin(subject, catalogue(subject, title=title, method=method, records=beside), beside)

    @classmethod
    def of_records(cls, *records: Any, title: str = "Insights") -> Session:
        """A session without samples, which shows results alone.

        Args:
            *records: the results, as for `write_report`.
            title: heading of the page.

        Raises:
            InputError: none, or one of an unknown kind.

        Example:
            from interp_plugins.influence import influence
            from interp_plugins.insights import Session

            x, y = torch.rand(40, 3, 24, 24), torch.arange(40) % 10
            Session.of_records(influence(model, x[:2], (x, y), k=3)).to_html()
        """
        if not records:
            raise InputError("There is nothing to show: give at least one result.")
        return cls.over(NoSamples(), title=title, records=records)

    @classmethod
    def over(
        cls, subject: Subject, about: Mapping[str, Any] | None = None, *, records: Iterable[Any] = (), **words: Any
    ) -> Session:
        """A session over a subject, which others may look at as well.

        Args:
            subject: the samples.
            about: its `catalogue`, where that is known already.
            records: results that are shown beside, as for `write_report`.
            **words: of `catalogue`.
        """
        session, beside = cls.__new__(cls), as_records(records)
        known = dict(about) if about is not None else catalogue(subject, **words)
        session._begin(subject, {**known, "records": entries(beside)}, beside)
        return session

    def _begin(self, subject: Subject, about: dict[str, Any], records: Sequence[Record]) -> None:
        self.subject, self.catalogue, self.records = subject, as_json(about), records
        self.notes: dict[str, Any] = {}  # see `as_notes`
        self._made: dict[int, list[Made]] = {}
        self._jobs: Counter[int] = Counter()  # ids of what waits or runs
        self._cancelled: set[int] = set()
        self._worker = Worker("insights")

    # -- messages -------------------------------------------------------------------------------------------------

    def receive(self, message: Mapping[str, Any], send: Send) -> None:
        """Answer a message through `send`, which may be called from another thread. Never raises for its content."""
        send = _through(as_json, send)
        quick = {"input": self._input, "maps": self._maps}
        slow = {
            "explain": self._explain,
            "curves": self._curves,
            "export": self._export,
            "record": self._record,  # some read their data
        }
        number = None
        try:
            number, kind = _identified(message)
            if kind == "cancel":
                self._cancel(message.get("job"))
            elif kind == "notes":
                self.notes = as_notes(message.get("notes"))
            elif kind in slow:
                self._begin_job(number, slow[kind], message, send)
            elif kind in quick:
                self._answer(number, quick[kind], message, send)
            else:
                known = ", ".join(["cancel", "notes", *slow, *quick])
                raise InputError(f"Unknown message type {kind!r}; known: {known}.")
        except InterpError as err:
            send({"id": number, "type": "error", "error": f"The message could not be read: {err}"})

    def close(self) -> None:
        """End the session: a running job stops before the model's next pass, later ones do not begin."""
        self._worker.close()

    def _cancel(self, job: Any) -> None:
        if isinstance(job, bool) or not isinstance(job, int):
            raise InputError(f"A job is named by its number, got {describe(job)}.")
        if job in self._jobs:
            self._cancelled.add(job)

    def _begin_job(self, number: int, work: Work, message: Mapping[str, Any], send: Send) -> None:
        def run() -> None:
            try:
                with cancellable(lambda: number in self._cancelled):
                    self._answer(number, work, message, send)
            finally:
                self._jobs -= Counter([number])
                self._cancelled.discard(number)

        self._jobs[number] += 1
        self._worker.submit(run)

    def _answer(self, number: int, work: Work, message: Mapping[str, Any], send: Send) -> None:
        try:
            answer = {"id": number, "type": "result", "result": work(message, send)}
        except Cancelled:
            answer = {"id": number, "type": "error", "error": "Cancelled."}
        except (Exception, SystemExit) as err:  # whatever a model raises belongs into the page, not into a dead thread
            answer = {"id": number, "type": "error", "error": f"{type(err).__name__}: {err}"}
        send(answer)

    def _row(self, message: Mapping[str, Any]) -> int:
        i, n = message.get("sample"), self.subject.n
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < n:
            raise InputError(f"There is no sample {i!r}; there are {n}.")
        return i

    def made(self, i: int) -> list[Made]:
        """Every explanation of sample i so far."""
        if i not in self._made:
            self._made[i] = self.subject.given(i)
        return self._made[i]

    def _input(self, message: Mapping[str, Any], send: Send) -> dict[str, Any]:
        return input_record(self.subject.input(self._row(message)), 0)

    def _record(self, message: Mapping[str, Any], send: Send) -> dict[str, Any]:
        return self.records[self._numbered(message.get("record"))].page()

    def _numbered(self, k: Any) -> int:
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < len(self.records):
            raise InputError(f"There is no record {k!r}; there are {len(self.records)}.")
        return k

    def said(self, record: int = 0) -> dict[int, dict[str, Any]]:
        """What a person said of a record's items: item -> {"tags": [text], "note": text}.

        Args:
            record: number of the record, in their order.

        Raises:
            InputError: there is no such record.
        """
        begin = f"{self._numbered(record)}/"
        return {int(key[len(begin) :]): dict(one) for key, one in self.notes.items() if key.startswith(begin)}

    def _maps(self, message: Mapping[str, Any], send: Send) -> list[dict[str, Any]]:
        i = self._row(message)
        return [record for key in range(len(self.made(i))) for record in self._records(i, key)]

    def _records(self, i: int, key: int) -> list[dict[str, Any]]:
        """The maps of one explanation, one per input."""
        subject = self.subject
        return made_records(self.made(i)[key], key, subject.input_names, subject.call(i))

    def _explain(self, message: Mapping[str, Any], send: Send) -> dict[str, Any]:
        """Explain samples one by one; a sample that fails does not stop the others."""
        rows = self._rows(message)
        chosen = self._models(message)
        ask = _asked(message)
        records: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        done = 0
        for i in rows:
            for m in chosen:
                try:
                    check_cancelled()
                    records += [{"sample": i, "record": record} for record in self._add(m, i, ask)]
                except Cancelled:
                    return {"records": records, "failures": failures, "cancelled": True}
                except Exception as err:
                    failures.append({"sample": i, "error": f"{type(err).__name__}: {err}"})
                done += 1
                send({"id": message["id"], "type": "progress", "done": done, "total": len(rows) * len(chosen)})
        if failures and not records and len({f["error"] for f in failures}) == 1:
            raise InputError(failures[0]["error"])
        return {"records": records, "failures": failures, "cancelled": False}

    def _rows(self, message: Mapping[str, Any]) -> list[int]:
        samples = message.get("samples")
        if not isinstance(samples, list):
            raise InputError(f"samples must be a list of numbers, got {describe(samples)}.")
        return [self._row({"sample": i}) for i in samples]

    def _models(self, message: Mapping[str, Any]) -> list[int]:
        names, which = self.subject.models, message.get("model", 0)
        if which == "all":
            return list(range(len(names)))
        number = int(which) if isinstance(which, str) and which.isdecimal() and len(which) < 9 else which
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < max(1, len(names)):
            raise InputError(f"There is no model {which!r}; there are {len(names)}, numbered from 0, or 'all'.")
        return [number]

    def _add(self, m: int, i: int, ask: Ask) -> list[dict[str, Any]]:
        made = self.made(i)
        begin = len(made)
        made += [Made(exp, m, ask, k) for k, exp in enumerate(self.subject.explain(m, i, ask))]
        return [record for key in range(begin, len(made)) for record in self._records(i, key)]

    def _curves(self, message: Mapping[str, Any], send: Send) -> dict[str, Any]:
        i, key = self._row(message), message.get("key")
        made = self.made(i)
        if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key < len(made):
            raise InputError(f"There is no map {key!r} of sample {i}; there are {len(made)}.")
        curves = self.subject.curves(i, made[key], _baseline(message))
        made[key] = replace(made[key], curves=curves)
        return curves

    # -- saving ---------------------------------------------------------------------------------------------------

    def explanations(self) -> Explanations:
        """Every explanation made so far, sample by sample."""
        return Explanations([made.exp for i in range(self.subject.n) for made in self.made(i)])

    def _export(self, message: Mapping[str, Any], send: Send) -> dict[str, Any]:
        kind = message.get("format")
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
        rows = [{"sample": i} for i in range(self.subject.n)]
        return file_html(
            {**self.catalogue, "notes": self.notes},
            (self._input(row, lambda _: None) for row in rows),
            (self._maps(row, lambda _: None) for row in rows),
            records=self.records,
        )


def _through(change: Callable[[Any], Any], send: Send) -> Send:
    return lambda message: send(change(message))


def _identified(message: Any) -> tuple[int, str]:
    """The number and type of a message."""
    if not isinstance(message, Mapping):
        raise InputError(f"A message is an object with an id and a type, got {describe(message)}.")
    number, kind = message.get("id"), message.get("type")
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) > _LARGEST:
        raise InputError(f"A message's id must be a whole number of at most {_LARGEST}, got {describe(number)}.")
    if not isinstance(kind, str):
        raise InputError(f"A message's type must be a text, got {describe(kind)}.")
    return number, kind


def as_notes(given: Any) -> dict[str, Any]:
    """What a person has written: sample number (as text), or "record/item" -> {"tags": [text], "note": text}.

    Raises:
        InputError: anything else; a file made of it would not open.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"Notes must be an object with a remark per sample, got {describe(given)}.")
    for sample, remark in given.items():
        known = isinstance(remark, Mapping) and set(remark) <= {"tags", "note"}
        tags, note = (remark.get("tags", []), remark.get("note", "")) if known else (None, None)
        words = isinstance(tags, list) and all(isinstance(tag, str) for tag in tags) and isinstance(note, str)
        if not known or not words or not _PLACE.fullmatch(str(sample)):
            raise InputError(f'A remark is {{"tags": [texts], "note": text}} by sample number, got {remark!r:.80}.')
    return {str(sample): {"tags": list(r.get("tags", [])), "note": r.get("note", "")} for sample, r in given.items()}


def _asked(message: Mapping[str, Any]) -> Ask:
    method, params = message.get("method"), message.get("params") or {}
    if not isinstance(method, str):
        raise InputError(f"method must be a name, got {describe(method)}.")
    if not isinstance(params, Mapping):
        raise InputError(f"params must be an object, a value per parameter, got {describe(params)}.")
    return Ask(method, params, message.get("target"), _baseline(message))


def _baseline(message: Mapping[str, Any]) -> str:
    name = message.get("baseline") or "default"
    if not isinstance(name, str):
        raise InputError(f"baseline must be a name, got {describe(name)}.")
    return name


def _file(name: str, kind: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "type": kind, "data": base64.b64encode(data).decode("ascii")}
