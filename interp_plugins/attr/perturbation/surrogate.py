"""Surrogates: small models that Lime fits to the scores of perturbed inputs, and reads as the explanation.

A surrogate is anything with `fit(loader)`, where the loader gives batches (features, scores, weights), and
`representation()`, the coefficients. Those of scikit-learn need scikit-learn; `WeightedRidge` needs torch alone.
"""

from __future__ import annotations

import importlib
import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.tensors import widest


class Surrogate(Protocol):
    """What Lime asks of an interpretable model."""

    def fit(self, train_data: DataLoader[Any], **kwargs: Any) -> Any:
        """Fit to batches of (features (B, d), scores (B,), weights (B,))."""
        ...

    def representation(self) -> Tensor:
        """The coefficients, (1, d) or (d,)."""
        ...


def gathered(loader: DataLoader[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """All features (B, d), scores (B,) and weights (B,) of a loader; weights of one where there are none."""
    batches = [(b[0], b[1], b[2] if len(b) > 2 else torch.ones_like(b[1])) for b in loader]
    x, y, w = (torch.cat([b[i] for b in batches]) for i in range(3))
    return x, y.reshape(len(x)), w.reshape(len(x))


class SkLearnLinearModel:
    """A linear model of scikit-learn.

    Args:
        sklearn_module: where it lives below `sklearn`, such as "linear_model.Ridge".
        **kwargs: its constructor's arguments.
    """

    def __init__(self, sklearn_module: str, **kwargs: Any):
        self.sklearn_module, self.kwargs = sklearn_module, kwargs
        self.fitted: Any = None
        self._like: Tensor | None = None

    def fit(self, train_data: DataLoader[Any], **kwargs: Any) -> None:
        """Fit with the weights as sample weights; further arguments go to scikit-learn's `fit`.

        Raises:
            ImportError: scikit-learn is missing.
            InputError: it has no such model.
        """
        package, _, name = f"sklearn.{self.sklearn_module}".rpartition(".")
        try:
            cls = getattr(importlib.import_module(package), name)
        except ModuleNotFoundError as err:
            raise ImportError(
                f"The surrogate {self.sklearn_module} needs scikit-learn: pip install 'interp-plugins[lime]'. Without "
                "it, give Lime interpretable_model=WeightedRidge() (interp_plugins.attr.perturbation.surrogate)."
            ) from err
        except AttributeError as err:
            raise InputError(
                f"scikit-learn has no {self.sklearn_module!r}; expected 'linear_model.Lasso' or so."
            ) from err
        x, y, w = gathered(train_data)
        self._like = x
        arrays = [t.detach().cpu().numpy() for t in (x, y, w)]
        self.fitted = cls(**self.kwargs).fit(arrays[0], arrays[1], sample_weight=arrays[2], **kwargs)

    def representation(self) -> Tensor:
        """The coefficients of the fitted model, (1, d)."""
        if self.fitted is None or self._like is None:
            raise ModelError("The surrogate has not been fitted; call fit first.")
        return torch.as_tensor(np.atleast_2d(self.fitted.coef_)).to(self._like)

    def bias(self) -> Tensor:
        """The intercept of the fitted model, (1,)."""
        return torch.as_tensor(np.atleast_1d(self.fitted.intercept_))

    def __call__(self, x: Tensor) -> Tensor:
        """Predictions of the fitted model for rows x."""
        return torch.as_tensor(self.fitted.predict(x.detach().cpu().numpy())).to(x)


class SkLearnLasso(SkLearnLinearModel):
    """Lasso: sparse coefficients; `alpha` weighs the penalty (Lime's default is 0.01)."""

    def __init__(self, **kwargs: Any):
        # without a state of its own it takes a number from NumPy's generator, which its cyclic order never uses
        super().__init__("linear_model.Lasso", **{"random_state": 0, **kwargs})


class SkLearnRidge(SkLearnLinearModel):
    """scikit-learn's ridge regression as a surrogate."""

    def __init__(self, **kwargs: Any):
        super().__init__("linear_model.Ridge", **kwargs)


class SkLearnLinearRegression(SkLearnLinearModel):
    """scikit-learn's least squares as a surrogate."""

    def __init__(self, **kwargs: Any):
        super().__init__("linear_model.LinearRegression", **kwargs)


class WeightedRidge:
    """Weighted least squares with an intercept and a ridge penalty, solved in closed form in torch.

        minimise sum_j w_j (y_j - c - z_j b)^2 + alpha |b|^2

    Args:
        alpha: the penalty; 0 gives least squares, of smallest norm where samples are fewer than features.
    """

    def __init__(self, alpha: float = 0.0):
        if not alpha >= 0:
            raise InputError(f"alpha must not be negative, got {alpha!r}.")
        self.alpha = alpha
        self.coefficients: Tensor | None = None
        self.intercept: Tensor | None = None

    def fit(self, train_data: DataLoader[Any], **kwargs: Any) -> None:
        """Solve; no further arguments are used."""
        x, y, w = gathered(train_data)
        wide = widest(x.device)
        z, v, weight = x.to(wide).cpu(), y.to(wide).cpu(), w.to(wide).cpu()
        share = weight / weight.sum()
        centre, level = share @ z, share @ v
        root = weight.sqrt()
        rows, values = root[:, None] * (z - centre), root * (v - level)
        solution = ridge(rows, values, self.alpha) if self.alpha else least_squares(rows, values[:, None])[:, 0]
        self.coefficients = solution.to(x)[None]
        self.intercept = (level - centre @ solution).to(x)[None]

    def representation(self) -> Tensor:
        """The coefficients of the fitted model, (1, d)."""
        if self.coefficients is None:
            raise ModelError("The surrogate has not been fitted; call fit first.")
        return self.coefficients

    def bias(self) -> Tensor:
        """The intercept of the fitted model, (1,)."""
        if self.intercept is None:
            raise ModelError("The surrogate has not been fitted; call fit first.")
        return self.intercept

    def __call__(self, x: Tensor) -> Tensor:
        """Predictions of the fitted model for rows x, (n, d) to (n,)."""
        return x @ self.representation()[0] + self.bias()


def fits_rows(model: Surrogate) -> bool:
    """Whether a surrogate's fit is one of those above, which take any iterable of batches for a loader."""
    return getattr(type(model), "fit", None) in (SkLearnLinearModel.fit, WeightedRidge.fit)


def ridge(rows: Tensor, values: Tensor, alpha: float) -> Tensor:
    """Ridge coefficients (R'R + a)^-1 R'y = R' (RR' + a)^-1 y, by the smaller of the two systems: (d,)."""
    m, d = rows.shape
    if m < d:
        return rows.t() @ torch.linalg.solve(rows @ rows.t() + alpha * torch.eye(m, dtype=rows.dtype), values)
    return torch.linalg.solve(rows.t() @ rows + alpha * torch.eye(d, dtype=rows.dtype), rows.t() @ values)


class LeastSquares:
    """The least-squares solution of smallest norm of rows (m, d) @ x = values (m, k), with its standard error.

    Attributes:
        solution: (d, k).
        rank: of the rows.
    """

    def __init__(self, rows: Tensor, values: Tensor):
        u, s, v = torch.linalg.svd(rows, full_matrices=False)
        kept = s > torch.finfo(s.dtype).eps * max(rows.shape) * (s[:1] if len(s) else s)
        u, s, v = u[:, kept], s[kept], v[kept]
        self.rank = len(s)
        self._inverse = (v.t() / s) @ u.t()  # (d, m)
        self.solution = self._inverse @ values
        self._residual = values - rows @ self.solution
        self._leverage = u.square().sum(1)

    def standard_error(self, drawn: Tensor) -> Tensor:
        """Standard errors of the solution (d, k), if rows (m,) bool are independent draws: the sandwich estimator HC3.

        Infinite where a drawn row alone decides on its fit, which is always so with fewer rows than unknowns.
        """
        loose = 1 - self._leverage[drawn]
        if bool((loose < 1e-9).any()):
            return torch.full_like(self.solution, math.inf)
        pull = (self._residual[drawn] / loose[:, None]).square()
        return (self._inverse[:, drawn].square() @ pull).sqrt()


def least_squares(rows: Tensor, values: Tensor) -> Tensor:
    """The least-squares solution of smallest norm of rows (m, d) @ x = values (m, k), on the CPU: (d, k)."""
    if not rows.shape[0] or not rows.shape[1]:
        return values.new_zeros(rows.shape[1], values.shape[1])
    return torch.linalg.lstsq(rows, values, driver="gelsd").solution
