"""The fastai adapter: importing it gives every `Learner` the methods `explain`, `show_explanations`, `insights`.

    from fastai.vision.all import *
    from interp_plugins.fastai import *

    learn.explain("cat.jpg")
    learn.show_explanations()
    learn.insights(get_image_files("pictures"))
    learn.attack("cat.jpg", eps="2/255").show()
    learn.explanation_robustness("cat.jpg", "gradcam").show()
    learn.counterfactual("cat.jpg", goal="dog").show()
    learn.concepts(target="cat").show()
    learn.influence("cat.jpg").show()
    learn.visualize("layer4", channel=3).show()
    learn.caricature("cat.jpg", "layer4").show()
    learn.suspects().show()
    learn.fit_one_cycle(5, cbs=AttributionCallback())

It holds no attribution code. fastai's own validation transforms turn an item into tensors, the Learner's transforms and
vocabulary say what the tensors mean, and `interp_plugins.explain` does the rest on the bare model.
"""

# ruff: noqa: E402 - the door says first what is missing
from interp_plugins.core.extras import require

require("interp_plugins.fastai", "fastai", "fastai", "matplotlib")

from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.fastai import attacks as _attacks  # noqa: F401 - adds attack
from interp_plugins.fastai import concepts as _concepts  # noqa: F401 - adds concepts, concept_test
from interp_plugins.fastai import dataset as _dataset  # noqa: F401 - adds explain_dataset to Learner
from interp_plugins.fastai import evaluation as _evaluation  # noqa: F401 - adds evaluate_explanations, compare_methods
from interp_plugins.fastai import features as _features  # noqa: F401 - adds visualize, dataset_examples to Learner
from interp_plugins.fastai import influence as _influence  # noqa: F401 - adds influence to Learner
from interp_plugins.fastai import insights as _insights  # noqa: F401 - adds insights to Learner
from interp_plugins.fastai import interpretation as _interpretation  # noqa: F401 - adds methods to Learner and Interpretation
from interp_plugins.fastai import layer_pictures as _pictures  # noqa: F401 - adds caricature, invert, accentuate, atlas
from interp_plugins.fastai import learner as _learner  # noqa: F401 - adds the methods to Learner
from interp_plugins.fastai.callback import AttributionCallback
from interp_plugins.fastai.captum import CaptumInterpretation
from interp_plugins.fastai.neurons import NeuronCallback
from interp_plugins.fastai.robustness import RobustnessCallback  # adds robustness, counterfactual, ... to Learner
from interp_plugins.fastai.show import show_explanations
from interp_plugins.fastai.suspects import MarginHistory  # adds suspects to Learner

__all__ = [
    "AttributionCallback",
    "CaptumInterpretation",
    "Explanation",
    "Explanations",
    "MarginHistory",
    "NeuronCallback",
    "RobustnessCallback",
    "show_explanations",
]
