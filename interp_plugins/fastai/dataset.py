"""`Learner.explain_dataset`: every row of a loader or split into a run directory, through the validation transforms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastcore.basics import patch

from interp_plugins.api.binding import draws
from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.errors import InputError, InputTypeError, concise
from interp_plugins.core.literals import rather_than
from interp_plugins.core.tensors import describe
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.batch import ReadBatch, joined, no_data
from interp_plugins.fastai.items import is_item
from interp_plugins.fastai.labels import class_indices, label_number
from interp_plugins.fastai.learner_info import class_names
from interp_plugins.fastai.reader import Reader, reader_of
from interp_plugins.fastai.text import TextReader
from interp_plugins.store import ExplanationStore
from interp_plugins.store.dataset import apart, run_facts
from interp_plugins.store.job import Explained, Job, Settings, held_by
from interp_plugins.store.run import run
from interp_plugins.store.source import as_source


@patch
def explain_dataset(
    self: Learner,
    dl: Any = None,  # a fastai loader, or a split: 0 training, 1 validation; None: validation
    path: str | Path = "explanations",  # the run directory
    methods: Methods = DEFAULT_METHODS,  # a name or method object, several of these, or a mapping name -> parameters
    target: Any = None,  # as for `explain`; "label": ground truth
    *,
    against: Any = None,  # as for `explain`
    layer: Any = None,  # module or dotted name, for methods at a layer
    baselines: Any = None,  # name ("black", "blur", ...), number, tensor or function
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    unit_size: int | None = None,  # samples that are written as a whole; None: 64, fewer for small data
    batch_size: int | None = None,  # samples explained together; None: as many as get what each gets alone
    dtype: str | None = None,  # "float16" halves the room; None: as computed
    save_inputs: bool = True,  # keep the inputs beside the maps
    seed: int = 0,  # the run's seed
    on_error: str = "record",  # "record" a sample that fails and go on, or "raise"
    retry_failed: bool = False,  # do the units again that hold samples that failed
    rank: int | None = None,  # number of this process; None: torchrun's RANK, else 0
    world_size: int | None = None,  # number of processes; None: torchrun's WORLD_SIZE, else 1
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # the methods' own parameters (n_steps, ...)
) -> ExplanationStore:
    """Explain every row of the data into a run directory, or go on with a run that was interrupted.

    The rows are read in the order of their items, with validation transforms, also those of a training loader.
    `interp_plugins.store.explain_dataset` says more of units, processes and crashes.

    Raises:
        RunDiffersError: `path` holds a run of another model, other data or other parameters.
        DiskFullError: no room left; what was committed is safe.
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    Example:
        store = learn.explain_dataset(learn.dls.valid, "run", methods="gradcam", target="label")
        store.summary(by="label")
    """
    with concise():
        if is_item(baselines):
            raise InputTypeError(
                "explain_dataset() takes baselines by name, as a number, tensor or function. Encode a picture first: "
                "learn.dls.test_dl([picture]).one_batch()[0]."
            )
        options = {"layer": layer, "baselines": baselines, "output": output, "label_key": label_key, **params}
        target = rather_than(target, against)
        number = label_number(label_key, output)
        reader = reader_of(self)

        def explained(samples: list[ReadBatch], at: int) -> Explained:
            batch = joined(samples)
            with reader.unchanged():
                found = reader.explain(reader.ready(batch), methods, target=target, seed=at, progress=False, **options)
            return Explained.of(found, class_indices(batch.labels, len(batch), number))

        rows = _Rows(reader, dl)
        vocab = class_names(reader.dls, number)
        facts = {
            **options,
            "vocab": None if vocab is None else [str(v) for v in vocab],
            "loss": type(self.loss_func).__name__,
        }
        job = Job(
            data=rows,
            explain=explained,
            identity=run_facts(reader.model, methods, target, facts),
            draws=draws(methods, options),
            together=apart(target, reader.outputs()["threshold"]) and not isinstance(reader, TextReader),
            held=held_by(reader.model),
            names=rows.names,
        )
        settings = Settings(
            unit_size, batch_size, dtype, save_inputs, seed, on_error, retry_failed, rank, world_size, progress
        )
        run(job, path, settings)
        return ExplanationStore(path)


class _Rows:
    """The rows of a loader, each read alone.

    Args:
        reader: of the Learner's data.
        dl: a loader of fastai's or of PyTorch's, or the number of a split.
    """

    def __init__(self, reader: Reader, dl: Any):
        self.reader = reader
        if dl is None or (isinstance(dl, int) and not isinstance(dl, bool)):
            dl = reader.loader(1 if dl is None else dl, "dl")
        self.collate = None
        if isinstance(dl, torch.utils.data.DataLoader):
            self.collate = as_source(dl).collate  # refuses streams and loaders that choose
            if isinstance(dl.sampler, torch.utils.data.RandomSampler):
                raise InputError(
                    "The PyTorch loader shuffles, and a run numbers its samples as the data set does. Give a loader of "
                    "known order: torch.utils.data.DataLoader(dl.dataset, batch_size=dl.batch_size)."
                )
        elif not isinstance(dl, DataLoader) or not hasattr(dl.dataset, "__len__"):
            raise InputTypeError(
                "dl= takes a fastai or PyTorch DataLoader over a data set with a length, or a split (0, 1), got "
                f"{describe(dl)}."
            )
        if len(dl.dataset) == 0:
            raise InputError(no_data(reader.dls, dl, "its transforms and classes", "dl=learn.dls.test_dl(items)"))
        self.dl = dl

    def __len__(self) -> int:
        return len(self.dl.dataset)

    def __getitem__(self, i: int) -> ReadBatch:
        """Row i as a batch of one."""
        with self.reader.unchanged():
            one = (self.dl, [i]) if self.collate is None else ([self.collate([self.dl.dataset[i]])],)
            [row] = self.reader.from_dl(*one)
        return row

    @property
    def names(self) -> Sequence[str] | None:
        """The file names of pictures, the row labels of tables."""
        items = getattr(self.dl.dataset, "items", None)
        return None if items is None or len(items) != len(self) else self.reader.names(items)
