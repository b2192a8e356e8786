"""Every row of the table for those who come from Quantus, on cases whose value is known by hand or by a slow reference.

f(x) = x . (1, 2, 3, 4) at ones with the exact map (1, 2, 3, 4); the papers' formulas are re-implemented at full length
in test_oracles, test_faithfulness, test_removal and test_neighbours.
"""

import math

import pytest
import torch
from torch import nn

from interp_plugins.metrics import metric, metric_info
from interp_plugins.metrics.from_quantus import RENAMED, table

W = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
ONES = torch.ones(1, 4)
LAST = torch.tensor([[False, False, True, True]])
SHARES = [v / 10 for v in (1, 2, 3, 4)]


def linear():
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = W.clone()
    return net


class TwoLayers(nn.Module):
    """A picture's net with weights to draw anew, three classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))

    def forward(self, x):
        return self.body(x)


ROW = {"model": lambda x: (x * W).sum(1), "inputs": ONES}
PICTURE = {"model": lambda x: (x * W.reshape(1, 1, 2, 2)).flatten(1).sum(1), "inputs": ONES.reshape(1, 1, 2, 2)}
NET = {"model": TwoLayers().eval(), "inputs": torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))}
SPREAD = torch.tensor([[1.0, -1.0, 2.0, 0.5]])  # neighbours are noise of a share of the sample's own spread
AGAIN = {"model": linear(), "inputs": SPREAD, "target": 0, "explain": "saliency"}
MULTIPLIED = {**AGAIN, "explain": "input_x_gradient"}
FOUR = {"model": lambda x: x, "inputs": torch.eye(2).repeat(2, 1)}  # two classes, twice
EXPECTED = {
    "FaithfulnessCorrelation": (W, ROW, 1.0),
    "FaithfulnessEstimate": (W, ROW, 1.0),
    "PixelFlipping": (W, ROW, (0 + 4 + 7 + 9 + 10) / 5),
    "RegionPerturbation": (W.reshape(1, 1, 2, 2), PICTURE, (0 + 4 + 7 + 9 + 10) / 5),
    "Selectivity": (W.reshape(1, 1, 2, 2), PICTURE, (10 / 2 + 6 + 3 + 1 + 0 / 2) / 4),
    "Monotonicity": (W, ROW, 1.0),
    "MonotonicityCorrelation": (W, ROW, 1.0),
    "SensitivityN": (W, ROW, 1.0),
    "IROF": (W, ROW, 1 - (10 / 2 + 6 + 3 + 1) / 4 / 10),
    "Infidelity": (W, {**ROW, "inputs": SPREAD}, 0.0),
    "Sufficiency": (torch.eye(2).repeat(2, 1), FOUR, 1.0),
    "Consistency": (torch.eye(2).repeat(2, 1), FOUR, 1.0),
    **dict.fromkeys(("MaxSensitivity", "AvgSensitivity", "LocalLipschitzEstimate", "Continuity"), (W, AGAIN, 0.0)),
    "RelativeInputStability": (W * SPREAD, MULTIPLIED, 1.0),
    "PointingGame": (W, {"masks": LAST}, 1.0),
    "TopKIntersection": (W, {"masks": LAST}, 1.0),
    "RelevanceMassAccuracy": (W, {"masks": LAST}, 0.7),
    "RelevanceRankAccuracy": (W, {"masks": LAST}, 1.0),
    "AttributionLocalisation": (W, {"masks": LAST}, 0.7 * 4 / 2),
    "AUC": (W, {"masks": LAST}, 1.0),
    "Focus": (W.reshape(1, 2, 2), {"masks": torch.tensor([[False, False, True, True]])}, 0.7),
    "Sparseness": (W, {}, 2 * sum((i + 1) * v for i, v in enumerate(SHARES)) / 4 - 5 / 4),
    "Complexity": (W, {}, -sum(v * math.log(v) for v in SHARES)),
    "EffectiveComplexity": (W, {}, 4.0),
    "Completeness": (W, ROW, 0.0),
    "NonSensitivity": (W, ROW, 0.0),
    "InputInvariance": (W, AGAIN, 0.0),
}
# No number by hand: what they compare is random weights or another class; between the bounds of a correlation.
BETWEEN = {
    "ROAD": (-1.0, 1.0),
    "RelativeOutputStability": (0.0, math.inf),
    "RelativeRepresentationStability": (0.0, math.inf),
    **dict.fromkeys(("MPRT", "SmoothMPRT", "RandomLogit"), (-1.0, 1.0)),
    "EfficientMPRT": (-1.0, math.inf),
}


@pytest.mark.parametrize("row", RENAMED, ids=lambda row: row.theirs)
def test_a_row_does_what_it_says(row):
    given = metric(row.ours, **row.params)
    if row.theirs in EXPECTED:
        maps, beside, expected = EXPECTED[row.theirs]
        assert given.of(maps, **beside).values.tolist() == pytest.approx([expected] * len(maps), abs=1e-6)
        return
    low, high = BETWEEN[row.theirs]
    again = {} if row.theirs == "ROAD" else {"explain": "input_x_gradient"}
    weight = torch.autograd.functional.jacobian(lambda x: NET["model"](x)[:, 1].sum(), NET["inputs"])
    found = given.of(weight * NET["inputs"], **NET, **again, target=1)
    assert found.n_undefined == 0 and all(low <= v <= high for v in found.values.tolist())


def test_the_table_names_what_there_is():
    assert len({row.theirs for row in RENAMED}) == len(RENAMED) == 37
    assert {row.theirs for row in RENAMED} == {*EXPECTED, *BETWEEN}
    for row in RENAMED:
        assert metric_info(row.ours).name == row.ours and f"`{row.theirs}`" in table()
