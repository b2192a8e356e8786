"""A network really trained on ImageNet and real photographs, all from package registries: nothing is downloaded."""

from .learner import imagenet_learner
from .network import imagenet_classes, lite0
from .photographs import PHOTOGRAPHS, save_photographs

__all__ = ["PHOTOGRAPHS", "imagenet_classes", "imagenet_learner", "lite0", "save_photographs"]
