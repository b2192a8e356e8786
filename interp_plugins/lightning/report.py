"""One HTML file per stage that grows with the training: the viewer, with a slider over the runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanations
from interp_plugins.lightning import folder


class GrowingReport:
    """A file that holds every run so far, and opens without a network. Only what is new is written.

    Args:
        directory: a local or remote directory.
        name: of the file, without ending.
        title: heading of the page.
    """

    def __init__(self, directory: str, name: str, title: str):
        self.directory, self.title = directory, title
        self.name = re.sub(r"[^\w.=-]+", "-", name)
        self.path: str | None = None
        self.runs = 0

    def add(self, exps: Explanations, labels: Tensor | None, run: str, *, same: bool, resumed: bool) -> str:
        """Write a run.

        Args:
            exps: explanations of the same samples.
            labels: class indices per sample, or None.
            run: what the run is called.
            same: whether the samples are those of the first run.
            resumed: go on with a file of an earlier process, if there is one; else such a file is left alone.

        Returns:
            The file's path.
        """
        from interp_plugins.insights.precomputed import Precomputed
        from interp_plugins.insights.report import catalogue, file_html, records_of, run_blocks

        system, root = folder.opened(self.directory)
        if self.path is None:
            self.path = f"{root}/{self.name}.html"
            if resumed and system.exists(self.path):
                self.runs = 1 + system.cat_file(self.path).count(b' id="insights-run-')
            if not self.runs:
                self.path = folder.free_path(system, root, f"{self.name}.html")
        subject = Precomputed(exps, _classes(labels, exps))
        inputs, maps = records_of(subject)
        if self.runs == 0:
            text = file_html(catalogue(subject, title=self.title), inputs, maps, run)
            folder.write(system, self.path, text.encode())
        else:
            text = run_blocks(self.runs, run, subject.samples(), [] if same else inputs, maps)
            folder.append(system, self.path, text.encode())
        self.runs += 1
        return self.path


def _classes(labels: Tensor | None, exps: Explanations) -> Sequence[int | None] | None:
    """The labels, None for those that are no class (-100 marks what a loss leaves out)."""
    if not exps:
        raise InputError("There is no explanation to write into a report.")
    if labels is None or len(labels) != len(exps[0]):
        return None
    vocab = exps[0].spec.vocab
    most = len(vocab) if vocab is not None else None
    return [c if c >= 0 and (most is None or c < most) else None for c in labels.tolist()]
