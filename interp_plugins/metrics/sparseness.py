"""How few elements carry a map: the Gini index of the absolute values.

0: all elements carry the same. 1 - 1/D: one of D elements carries everything. The index does not change when a map
is multiplied by a number, and rises when zeros are added; so compare maps over the same number of elements.

References: Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training (2020), for maps;
Hurley and Rickard, Comparing Measures of Sparsity (2009), for the formula. Cost: a sort per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.metrics.rows import Maps, as_rows


def gini_index(attributions: Maps) -> Tensor:
    """Gini index of the absolute attributions, per sample: 1 - 2 sum_k (c_k / sum(c)) (D - k + 1/2) / D.

    c_1 <= ... <= c_D are the absolute values in ascending order.

    Args:
        attributions: maps, a tensor or a tuple of tensors (one per input), batch first; a tuple counts as one long map.

    Returns:
        (N,) float64 in [0, 1 - 1/D]; NaN for a map that is zero everywhere.

    Example:
        gini_index(torch.tensor([[0.0, 0.0, 0.0, 5.0]]))  # 0.75
    """
    rows = as_rows(attributions).abs()
    rows = (rows / rows.amax(1, keepdim=True)).sort(dim=1).values
    d = rows.shape[1]
    weights = (d - torch.arange(1, d + 1, dtype=rows.dtype, device=rows.device) + 0.5) / d
    # Rounding alone could leave the range at its ends.
    return (1 - 2 * (rows * weights).sum(1) / rows.sum(1)).clamp(0.0, 1 - 1 / d)
