"""Arguments: what is refused, when and with which words; pickling; what a command line sees."""

from __future__ import annotations

import copy
import inspect
import operator
import pickle

import pytest
import pytorch_lightning
import torch

import interp_plugins.lightning as room
from interp_plugins.core.errors import (
    InputError,
    InputTypeError,
    InterpError,
    LayerError,
    TargetError,
    UnknownNameError,
)
from interp_plugins.core.target import Contrast, Target
from interp_plugins.lightning import AttributionCallback, explain

WRONG = {
    "method": ({"methods": "integrated_gradient"}, "Did you mean 'integrated_gradients'"),
    "method in a dict": ({"methods": {"oclusion": {}}}, "Did you mean 'occlusion'"),
    "no method": ({"methods": []}, "methods must be"),
    "n_samples": ({"n_samples": 0}, "n_samples must be an int of at least 1"),
    "every_n_epochs": ({"every_n_epochs": 1.5}, "every_n_epochs must be an int"),
    "dataloader_idx": ({"dataloader_idx": -1}, "dataloader_idx must be"),
    "stage": ({"stages": ("validation",)}, "Unknown stage 'validation'. Did you mean 'validate'"),
    "no stage": ({"stages": ()}, "stages is empty"),
    "loggers": ({"loggers": "file"}, "Did you mean 'files'"),
    "on_error": ({"on_error": "ignore"}, "Unknown on_error 'ignore'"),
    "tag": ({"tag": ""}, "tag must be a name"),
    "mean alone": ({"mean": [0.5]}, "only one of mean and std"),
    "std": ({"mean": [0.5], "std": [0.0]}, "std must be positive"),
    "two inputs": ({"input_key": 0, "input_fn": operator.itemgetter(0)}, "input_key or input_fn, not both"),
    "input_fn": ({"input_fn": "x"}, "input_fn must be a function"),
    "two outputs": ({"output_key": 0, "output_fn": operator.itemgetter(0)}, "output_key or output_fn, not both"),
    "batch_size": ({"batch_size": 0}, "batch_size must be a positive int"),
    "method_kwargs": ({"method_kwargs": {"seed": 1}}, "method_kwargs holds 'seed'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_at_once(case) -> None:
    arguments, text = WRONG[case]
    with pytest.raises(InterpError, match=text):
        AttributionCallback(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"layer": "bdy.0"}, LayerError, "No layer named 'bdy.0'. Did you mean 'body.0'"),
        ({"module": "haed"}, UnknownNameError, "Unknown module of Net 'haed'. Did you mean 'head'"),
        ({"module": "head", "layer": "body.0"}, LayerError, "No layer named 'body.0'"),
    ],
)
def test_names_in_the_model_are_checked_before_the_work(
    arguments, error, text, make_net, make_loader, make_trainer, make_callback
) -> None:
    steps = []
    net = make_net()
    net.validation_step = lambda batch, batch_idx: steps.append(1)
    with pytest.raises(error, match=text):
        make_trainer(make_callback(on_error="warn", **arguments)).fit(net, make_loader(4), make_loader(4))
    assert steps == []


@pytest.mark.parametrize(
    "methods",
    [
        "occlusion",
        ["ig", "occlusion"],
        {"ig": {"n_steps": 3}, "occlusion": {}},
        {"noise_tunnel": {"attribution_method": "occlusion"}},
    ],
    ids=str,
)
def test_methods_that_cannot_explain_a_layer_are_refused_in_setup(methods, make_net, make_trainer) -> None:
    callback = AttributionCallback(methods, layer="body.0")
    with pytest.raises(InputError, match="'occlusion' explains the input and has no layer variant"):
        callback.setup(make_trainer(), make_net(), "fit")
    callback.setup(make_trainer(), make_net(), "predict")  # nothing is done there
    AttributionCallback(["ig", "gradcam", "noise_tunnel"], layer="body.0").setup(make_trainer(), make_net(), "fit")


def test_layers_that_are_built_in_setup_are_found(net_class, make_net, make_loader, make_trainer, make_callback):
    class Late(net_class):
        def __init__(self):
            super().__init__()
            del self.head

        def setup(self, stage):
            self.head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))

    callback = make_callback("layer_activation", layer="head.1")
    make_trainer(callback).validate(make_net(Late), make_loader(4), verbose=False)
    assert callback.last[0].layer == "head.1"
    with pytest.raises(LayerError, match=r"Did you mean 'head\.1'"):
        make_trainer(make_callback("gradcam", layer="head.9")).fit(make_net(Late), make_loader(4), make_loader(4))


def test_methods_and_their_parameters(make_net, make_loader, make_trainer, make_callback) -> None:
    methods = {
        "ig": {"n_steps": 7},
        "occlusion": {"sliding_window_shapes": [1, 2, 2], "strides": [1, 2, 2]},
    }  # lists, as in YAML
    callback = make_callback(methods, method_kwargs={"baselines": "mean", "perturbations_per_eval": 3})
    make_trainer(callback).validate(make_net(), make_loader(4), verbose=False)
    ig, occlusion = callback.last
    assert ig.params["n_steps"] == 7 and occlusion.params["perturbations_per_eval"] == 3
    assert occlusion.params["strides"] == (1, 2, 2)
    assert float(ig.baselines.abs().sum()) > 0


def test_a_parameter_that_no_method_takes(make_net, make_loader, make_trainer, make_callback, warned) -> None:
    callback = make_callback("ig", method_kwargs={"n_step": 7}, on_error="warn")
    with warned("unexpected keyword argument 'n_step'. Did you mean 'n_steps'"):
        make_trainer(callback).validate(make_net(), make_loader(4), verbose=False)


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
@pytest.mark.parametrize("subclass", [False, True], ids=["itself", "a user's subclass"])
def test_L23_strategies_that_shard_the_weights_are_refused(
    name, subclass, make_net, make_trainer, make_callback
) -> None:
    callback, trainer = make_callback(on_error="warn"), make_trainer()
    plain = trainer.strategy
    real = getattr(pytorch_lightning.strategies, name)  # the class itself; its objects need what is not here
    assert real.__name__ == name
    bases = (type("Mine", (real,), {}),) if subclass else (real,)
    sharding = object.__new__(type(bases[0].__name__, bases, {"__init__": lambda self: None}))
    trainer._accelerator_connector.strategy = sharding
    text = f"does not support {name}.*save a full checkpoint.*explain.*devices=1.*strategy='ddp' is supported"
    with pytest.raises(NotImplementedError, match=text) as caught:
        callback.setup(trainer, make_net(), "fit")
    assert isinstance(caught.value, InterpError)
    callback.setup(trainer, make_net(), "predict")  # nothing is done there
    trainer._accelerator_connector.strategy = plain
    callback.setup(trainer, make_net(), "fit")


def first(batch):
    return batch[0]


def test_L24_pickles_with_importable_functions_only() -> None:
    callback = AttributionCallback("ig", input_fn=operator.itemgetter(0), method_kwargs={"n_steps": 3})
    again = pickle.loads(pickle.dumps(callback))
    assert again.methods == "ig" and again.method_kwargs == {"n_steps": 3} and again.input_fn((1, 2)) == 1
    for name in ("input_fn", "output_fn", "target"):
        with pytest.raises(InputTypeError, match=f"because {name} is a function that cannot be imported.*itemgetter"):
            pickle.dumps(AttributionCallback(**{name: lambda batch: batch}))
    with_lambda = AttributionCallback(input_fn=lambda batch: batch[0])
    assert copy.deepcopy(with_lambda).input_fn((1, 2)) == 1


def test_L24_pickles_after_a_run(make_net, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback("ig")
    make_trainer(callback).validate(make_net(), make_loader(4), verbose=False)
    again = pickle.loads(pickle.dumps(callback))
    assert torch.equal(again.last[0].attribution, callback.last[0].attribution) and again.n_runs == 1


def test_every_argument_is_kept_and_has_a_type() -> None:
    parameters = list(inspect.signature(AttributionCallback.__init__).parameters.values())[1:]
    callback = AttributionCallback()
    for parameter in parameters:
        assert not isinstance(parameter.annotation, str) and parameter.annotation is not parameter.empty
        assert hasattr(callback, parameter.name)


def test_the_last_explanations_stay_after_the_run(make_net, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback()
    assert len(callback.last) == 0
    make_trainer(callback).fit(make_net(), make_loader(4), make_loader(4))
    assert callback.last["saliency"].attribution.shape == (2, 1, 8, 8)


def test_explain_without_and_with_a_trainer(net_class, make_net, make_loader, make_trainer) -> None:
    class Doubling(net_class):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            batch[0].mul_(2)
            return batch

    net, batch = make_net(Doubling), next(iter(make_loader(4)))
    before = batch[0].clone()
    plain = explain(net, batch, "ig", target="label", n_steps=5)
    assert plain["ig"].params["n_steps"] == 5 and torch.equal(plain[0].input, before)
    trainer = make_trainer()
    trainer.validate(net, make_loader(4), verbose=False)
    doubled = explain(net, batch, "ig", trainer=trainer)
    assert torch.equal(doubled[0].input, 2 * before) and torch.equal(batch[0], before)
    with torch.inference_mode():
        assert torch.equal(explain(net, batch[0], "ig")[0].input, before)


class Twice(Target):
    """Two times what another target selects."""

    def __init__(self, of):
        self.of = of

    def map(self, function):
        return Twice(function(self.of))

    def at(self, rows):
        return Twice(self.of.at(rows))

    def __call__(self, output):
        return 2 * self.of(output)


def test_a_new_target_takes_the_ground_truth(make_net, make_loader) -> None:
    net, batch = make_net(), next(iter(make_loader(4)))
    asked = ["label", Twice("label"), Twice(Twice(0)), Contrast(Twice("label"), "label"), 0]
    label, twice, four, contrast, zero = (
        exp.attribution for exp in explain(net, batch, "input_x_gradient", target=asked)
    )
    torch.testing.assert_close(twice, 2 * label)
    torch.testing.assert_close(four, 4 * zero)
    torch.testing.assert_close(contrast, label)
    with pytest.raises(TargetError, match='target="label" needs the ground truth'):
        explain(net, batch[0], "saliency", target=Contrast("label", 0))


def test_explain_follows_the_dtype_of_the_weights(make_net) -> None:
    exp = explain(make_net().double(), torch.randn(2, 1, 8, 8), "ig")[0]
    assert exp.attribution.dtype == torch.float64


def test_explain_refuses_what_contradicts_itself(make_net) -> None:
    x = torch.randn(2, 1, 8, 8)
    with pytest.raises(InputError, match="give trainer="):
        explain(make_net(), x, autocast=True)
    from interp_plugins import InputSpec

    with pytest.raises(InputError, match="not both"):
        explain(make_net(), x, input_spec=InputSpec(), class_names=["a", "b", "c"])


def test_the_public_names() -> None:
    assert sorted(room.__all__) == [
        "AttributionCallback",
        "AttributionWriter",
        "MarginHistory",
        "NeuronCallback",
        "PromptCallback",
        "RobustnessCallback",
        "accentuate",
        "atlas",
        "caricature",
        "certify",
        "concept_test",
        "concepts",
        "corruptions",
        "counterfactual",
        "dataset_examples",
        "explain",
        "explanation_robustness",
        "influence",
        "invert",
        "robustness",
        "suspects",
        "top_losses",
        "visualize",
    ]
