"""`captum_numbers`: Captum's conventions where this library's numbers differ on purpose, for tests of a migration."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar

_captums: ContextVar[bool] = ContextVar("interp_plugins_captum_numbers", default=False)


class captum_numbers(contextlib.ContextDecorator):
    """Compute with Captum 0.9's conventions inside a `with` block, or in a decorated function.

    Old and new maps can then be compared before the new conventions are taken over:

    - Occlusion cuts its last window off at the border (`border="clip"`),
    - the weights of `riemann_trapezoid` sum to (n - 1) / n,
    - LayerConductance takes changes between n + 1 nodes and the gradient at the left one,
    - FeatureAblation keeps the type of the model's output, integers too; Occlusion, Shapley values, Lime and KernelShap
      give float32,
    - GradientShap and LayerGradientShap draw what Captum draws: the noise from a copy of torch's global generator,
      baselines (each input its own) and places on the path from a copy of NumPy's; `seed=` and `generator=` go before.

    Other draws stay this library's (docs/differences.md), and so does everything that is right in one way only.

    Args:
        on: whether Captum's conventions hold.

    Example:
        def weighted(x):
            return 2 * x[:, 0] - x[:, 1]

        with captum_numbers():
            maps = IntegratedGradients(weighted).attribute(torch.ones(1, 2), n_steps=10, method="riemann_trapezoid")
        maps  # -> [[1.8, -0.9]]
    """

    def __init__(self, on: bool = True):
        self._on, self._tokens = bool(on), []  # type: ignore[var-annotated]

    def __enter__(self) -> None:
        """Take Captum's conventions until the block ends."""
        self._tokens.append(_captums.set(self._on))

    def __exit__(self, *exc: object) -> None:
        """Back to what was before the block."""
        _captums.reset(self._tokens.pop())


def as_captum() -> bool:
    """Whether Captum's conventions hold now."""
    return _captums.get()
