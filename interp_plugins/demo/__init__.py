"""A network really trained on ImageNet and real photographs, all from package registries: nothing is downloaded."""

from interp_plugins.demo.learner import imagenet_learner
from interp_plugins.demo.network import imagenet_classes, lite0
from interp_plugins.demo.photographs import PHOTOGRAPHS, save_photographs

__all__ = ["PHOTOGRAPHS", "imagenet_classes", "imagenet_learner", "lite0", "save_photographs"]
