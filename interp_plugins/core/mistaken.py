"""What is given by mistake because another package has it under the same name."""

from __future__ import annotations

from typing import Any

from interp_plugins.core.errors import TargetError


def check_no_transform(target: Any) -> None:
    """Refuse a transform of data given as a target: fastai has an augmentation called Contrast.

    Raises:
        TargetError: it is one, or the class of one.
    """
    kind = target if isinstance(target, type) else type(target)
    if any(base.__name__ == "Transform" for base in kind.__mro__):
        raise TargetError(
            f"The target is {kind.__module__}.{kind.__name__}, which changes pictures and selects nothing "
            "of an output (`from fastai.vision.all import *` brings such names). Why the one class rather than the "
            'other is asked with target="cat", against="dog".'
        )
