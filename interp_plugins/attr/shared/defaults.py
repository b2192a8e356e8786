"""What `explain` gives a method where it is better than the class's own default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp_plugins.core.spec import InputSpec


def path_defaults(inputs: tuple[Tensor, ...], spec: InputSpec) -> Mapping[str, Any]:
    """What `explain` sets: normalised pictures start from black, as in the paper; zero is the data's mean colour."""
    return {"baselines": "black"} if spec.kind == "image" and spec.normalised else {}
