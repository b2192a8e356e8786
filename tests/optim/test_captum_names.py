"""Names of Captum's branch: the same pictures as `visualize`, and what is refused."""

import pytest
import torch
from torch import nn

from interp_plugins import visualize
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.optim import captum
from interp_plugins.optim import objectives as o


def test_the_branch_s_calls_give_the_same_pictures() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    obj = captum.InputOptimization(net, captum.ChannelActivation("2", 1), captum.NaturalImage((12, 10)))
    with pytest.raises(InputError, match="call optimize first"):
        obj.input_param()
    history = obj.optimize(captum.n_steps(6))
    plain = visualize(net, "2", channel=1, like=torch.zeros(1, 3, 12, 10), steps=6, tol=None, progress=False)
    assert torch.equal(obj.input_param(), plain.images) and torch.equal(history, plain.history[0])
    two = captum.InputOptimization(
        net, captum.LayerActivation("0") + captum.TotalVariation(), captum.NaturalImage((8, 8), batch=2)
    )
    assert two.optimize(captum.n_steps(3)).shape == (2, 3)
    assert repr(captum.NeuronActivation("2", 1, x=3, y=2)) == repr(o.neuron("2", 1, 2, 3))
    assert repr(captum.NeuronActivation("2", 1)) == repr(o.neuron("2", 1))
    assert captum.Direction("0", torch.ones(4), 2).layers == ("0",)
    for wrong, text in (
        (lambda: obj.optimize(captum.n_steps(2), loss_summarize_fn=torch.mean), "none is averaged"),
        (lambda: obj.optimize(lambda *_: True), "number of steps"),
        (lambda: captum.NeuronActivation("2", 1, x=3), "both x"),
    ):
        with pytest.raises(InputError, match=text):
            wrong()
    with pytest.raises(InputTypeError, match="must be an objective"):
        captum.InputOptimization(net, torch.mean)
