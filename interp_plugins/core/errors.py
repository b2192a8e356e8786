"""Errors and warnings: one root, each error also the builtin a caller would catch.

Argument errors are `AssertionError` as well, because Captum checks its arguments with `assert` and existing
code catches that. Every text says what came, what was expected and what to do.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any


class InterpError(Exception):
    """Root of all errors raised on purpose by this package."""


class InputError(InterpError, ValueError, AssertionError):
    """An argument has the right type but an unusable value or shape."""


class InputTypeError(InterpError, TypeError, AssertionError):
    """An argument has the wrong type or dtype."""


class TargetError(InputError, IndexError):
    """The target does not fit the model's output, or its label is unknown."""


class SampleError(InputError, IndexError):
    """There is no such sample or result."""


class UnknownNameError(InputError, LookupError):
    """A method, baseline, layer or option name is not known."""


class ModelError(InterpError, RuntimeError):
    """The model returned something that cannot be explained, or its graph is broken."""


class LayerError(ModelError, AssertionError):
    """A layer cannot be found, did not run, or gave no usable tensor."""


class FileError(InterpError, OSError):
    """A file cannot be written."""


class MissingFileError(InterpError, FileNotFoundError):
    """There is no such file."""


class OutOfMemoryError(InterpError, MemoryError):
    """Memory ran out although the work was already cut into single examples."""


class InterpWarning(UserWarning):
    """Root of all warnings of this package."""


class ConvergenceWarning(InterpWarning):
    """A requested tolerance was not reached."""


class RandomisationWarning(InterpWarning):
    """A method whose maps hardly depend on what the network learned; told once per process and method."""


class AccelerationWarning(InterpWarning):
    """An acceleration failed in a way that nobody foresaw, and the plain model did its work; told once per model."""


class concise(contextlib.AbstractContextManager[None]):
    """Around the body of a public function: its errors of ours show the caller's line and that function, no more.

    An error of the user's model keeps its whole traceback and its cause.
    """

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Forget the frames between, and what the error was made of."""
        if isinstance(error, OutOfMemoryError) or not isinstance(error, InterpError):
            return
        if isinstance(error, ModelError) and error.__cause__ is not None:
            return
        error.__cause__ = None
        error.__suppress_context__ = True
        if trace is not None:
            trace.tb_next = None


def did_you_mean(name: object, choices: Iterable[object]) -> str:
    """Return " Did you mean 'x'?" for the nearest choices, or "" when nothing is near."""
    near = difflib.get_close_matches(str(name).lower(), [str(c).lower() for c in choices], n=2, cutoff=0.6)
    by_lower = {str(c).lower(): str(c) for c in choices}
    return f" Did you mean {' or '.join(repr(by_lower[n]) for n in near)}?" if near else ""


def unknown(kind: str, name: object, choices: Iterable[object], hint: str = "") -> UnknownNameError:
    """Build the error for an unknown name, with the nearest known names."""
    listed = [str(c) for c in choices]
    shown = ", ".join(listed[:12]) + (f", ... ({len(listed)} in all)" if len(listed) > 12 else "")
    text = f"Unknown {kind} {name!r}.{did_you_mean(name, listed)} Known: {shown or 'none'}."
    return UnknownNameError(text + (f" {hint}" if hint else ""))


@contextlib.contextmanager
def decoding(kind: type[InterpError], text: str) -> Iterator[None]:
    """Around the reading of what lies on a disk: whatever fails there becomes one error, since anything may lie there.

    Args:
        kind: the error's class.
        text: what is wrong, without a full stop; the reason is added in brackets.
    """
    try:
        yield
    except InterpError as err:
        raise kind(f"{text} ({err})") from err
    except Exception as err:
        raise kind(f"{text} ({type(err).__name__}: {' '.join(str(err).split())[:200]}).") from err
