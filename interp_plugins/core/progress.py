"""How far work is: a bar for long work, and one bar over several pieces of it, with an estimate of the rest.

Methods count rows with `core.batching.progress_bar`. Alone, that is a bar of its own; inside `Overall`, which `explain`
opens for all its methods, it is a share of the one bar, whose text says which method is at work.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

_LATE = 2.0  # seconds that work takes before it gets a progress bar
_UNITS = 1000  # of the one bar: a share of the whole work each

_overall: ContextVar[Overall | None] = ContextVar("interp_plugins_overall", default=None)


class LateBar:
    """Counts rows, and draws a bar once two seconds have gone by: short work makes no bar (nor tqdm's thread).

    Args:
        total: rows.
        what: the bar's text.
        shown: None: late; True: at once; False: never.
        form: tqdm's form of the bar, None: its own.
    """

    def __init__(self, total: int, what: str, shown: bool | None, form: str | None = None):
        self.total, self.what, self.shown, self.form = total, what, shown, form
        self.begin, self.done = time.perf_counter(), 0
        self.bar: Any = None
        if shown:
            self.bar = tqdm_bar(total, what, form)

    def update(self, n: int = 1) -> None:
        """Note that n more rows are done."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
        elif self.shown is None and (gone := time.perf_counter() - self.begin) > _LATE:
            self.bar = tqdm_bar(self.total, self.what, self.form)
            if not self.bar.disable:  # by an environment variable
                self.bar.start_t -= gone
            self.bar.update(self.done)

    def says(self, what: str) -> None:
        """Change the bar's text."""
        self.what = what
        if self.bar is not None:
            self.bar.set_description_str(what)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> LateBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AskedBar(LateBar):
    """A bar that was asked for: as Captum's, it names the method, and in a terminal stays as a line at its 100 %."""

    def __init__(self, total: int, what: str):
        super().__init__(total, f"{what} attribution", False)
        self.bar = tqdm_bar(total, self.what, leave=not _in_notebook())

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self.done < self.total:  # the work came out shorter than planned
            self.update(self.total - self.done)
        self.close()


def _in_notebook() -> bool:
    """Whether the bar would be a widget, which would stay in the saved notebook."""
    from tqdm.auto import tqdm

    return any(".notebook" in kind.__module__ for kind in tqdm.__mro__)


def tqdm_bar(total: int, what: str, form: str | None = None, leave: bool = False) -> Any:
    """A bar that is shown at once, and leaves nothing behind unless it is asked to."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=what, leave=leave, mininterval=0.5, bar_format=form)


class Overall:
    """One bar over several pieces of work, begun one after the other.

    Args:
        names: of the pieces, for the bar's text.
        weights: how much work each is, in any unit; a guess is enough, since the time that a unit takes is measured.
        shown: None: a bar once two seconds have gone by; True: at once; False: never.

    Example:
        with Overall(["one", "two"], [1, 3], False).open() as bar:
            with bar.piece(0):
                explain(model, x, "saliency")
    """

    def __init__(self, names: Sequence[str], weights: Sequence[float], shown: bool | None):
        total = sum(weights) or 1.0
        self.names, self.shares = list(names), [w / total for w in weights]
        self.shown = shown
        self._before, self._share, self._reached, self._bars = 0.0, 0.0, 0.0, 1
        self._units = 0
        self._bar: LateBar | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Overall]:
        """Show the bar while the block runs; bars opened in it become its share."""
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self._bar = LateBar(_UNITS, self._text(0), self.shown, form)
        token = _overall.set(self)
        try:
            yield self
        finally:
            _overall.reset(token)
            self._bar.close()

    def _text(self, k: int) -> str:
        more = f" ({k + 1} of {len(self.names)})" if len(self.names) > 1 else ""
        return f"{self.names[k]}{more}"

    @contextlib.contextmanager
    def piece(self, k: int, bars: int = 1) -> Iterator[None]:
        """Piece k is at work in the block.

        Args:
            k: its number.
            bars: how many bars it opens, one after the other.
        """
        assert self._bar is not None
        self._share, self._reached, self._bars = self.shares[k], 0.0, max(1, bars)
        self._bar.says(self._text(k))
        yield
        self._before += self._share
        self._share = 0.0
        self._at(0.0)

    def _at(self, fraction: float) -> None:
        assert self._bar is not None
        self._reached = max(self._reached, min(1.0, fraction))
        units = int(_UNITS * (self._before + self._share * self._reached))
        if units > self._units:
            self._bar.update(units - self._units)
            self._units = units
        else:
            self._bar.update(0)

    def inner(self, total: int) -> InnerBar:
        """The share of this bar of one that is opened inside it."""
        return InnerBar(self, total, self._reached)


class InnerBar:
    """A bar inside another: what it counts moves the other on."""

    def __init__(self, overall: Overall, total: int, begin: float):
        self.overall, self.total, self.begin, self.done = overall, total, begin, 0

    def update(self, n: int = 1) -> None:
        """Note that n more rows are done."""
        self.done += n
        part = min(1.0, self.done / self.total) if self.total > 0 else 0.0
        self.overall._at(self.begin + part / self.overall._bars)

    def close(self) -> None:
        """Nothing: the one bar stays."""

    def __enter__(self) -> InnerBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def progress_bar(total: int, what: str, progress: bool | None) -> Any:
    """A bar to `update` and `close`: None = only for work longer than two seconds, True = always, False = never.

    Inside `Overall` it is a share of the one bar, whatever `progress` says: that bar was asked for by the same word.
    """
    overall = _overall.get()
    if overall is not None:
        return overall.inner(total)
    return AskedBar(total, what) if progress else LateBar(total, what, progress)


def display_handle() -> Callable[[str], None] | None:
    """In a notebook a function that shows HTML in one place, again and again; else None.

    Empty text takes the place away: a saved notebook keeps nothing of it.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import HTML, DisplayHandle

    handle, shown = DisplayHandle(), False

    def show(html: str) -> None:
        nonlocal shown
        if html and not shown:
            handle.display(HTML(html))
            shown = True
        elif shown:
            handle.update({} if not html else HTML(html), raw=not html)

    return show
