"""The fastai adapter: importing it gives every `Learner` the method `explain`.

    from fastai.vision.all import *
    from interp_plugins.fastai import *

    learn.explain("cat.jpg")

It holds no attribution code. fastai's own validation transforms turn an item into tensors, the Learner's transforms and
vocabulary say what the tensors mean, and `interp_plugins.explain` does the rest on the bare model.
"""

from interp_plugins.core.explanation import Explanation, Explanations

from . import learner as _learner  # noqa: F401 - adds the methods to Learner

__all__ = ["Explanation", "Explanations"]
