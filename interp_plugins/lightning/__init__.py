"""Lightning: one callback that shows what a model looks at while it trains, and `explain` for a `LightningModule`.

    from interp_plugins.lightning import AttributionCallback

    Trainer(callbacks=[AttributionCallback(class_names=names)])

`AttributionWriter` explains whole data sets under `Trainer.predict`; `top_losses` the samples that are most wrong;
`suspects` finds wrong labels, with `MarginHistory` by what training said of them; `visualize` shows what units look
for, `caricature` and `atlas` what a layer makes of data.

Works with `pytorch_lightning` and with `lightning.pytorch`. This room finds the model, its inputs and the place for
the pictures; what is computed is `interp_plugins.explain`.
"""

# ruff: noqa: E402 - the door says first what is missing
from interp_plugins.core.extras import require

require("interp_plugins.lightning", "lightning", "matplotlib")

from interp_plugins.lightning.callback import AttributionCallback
from interp_plugins.lightning.concepts import concept_test, concepts
from interp_plugins.lightning.features import dataset_examples, visualize
from interp_plugins.lightning.influence import influence
from interp_plugins.lightning.layer_pictures import accentuate, atlas, caricature, invert
from interp_plugins.lightning.neurons import NeuronCallback
from interp_plugins.lightning.prompts import PromptCallback
from interp_plugins.lightning.robustness import (
    RobustnessCallback,
    certify,
    corruptions,
    counterfactual,
    explanation_robustness,
    robustness,
)
from interp_plugins.lightning.run import explain
from interp_plugins.lightning.suspects import MarginHistory, suspects
from interp_plugins.lightning.top_losses import top_losses
from interp_plugins.lightning.writer import AttributionWriter

__all__ = [
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
