"""The methods, under Captum's names and signatures.

`from captum.attr import IntegratedGradients` becomes `from interp_plugins.attr import IntegratedGradients`.
"""

from .ablation import FeatureAblation, Occlusion
from .activation import LayerActivation, LayerGradientXActivation
from .base import (
    Attribution,
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
    NeuronAttribution,
    PerturbationAttribution,
)
from .conductance import InternalInfluence, LayerConductance, NeuronConductance
from .grad_cam import LayerGradCam
from .gradient import InputXGradient, Saliency
from .gradient_shap import GradientShap
from .integrated_gradients import IntegratedGradients
from .layer import LayerFeatureAblation, LayerGradientShap, LayerIntegratedGradients
from .neuron import NeuronFeatureAblation, NeuronGradient, NeuronGradientShap, NeuronIntegratedGradients
from .noise_tunnel import NoiseTunnel

__all__ = [
    "Attribution",
    "FeatureAblation",
    "GradientAttribution",
    "GradientShap",
    "InputXGradient",
    "IntegratedGradients",
    "InternalAttribution",
    "InternalInfluence",
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerFeatureAblation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "NeuronAttribution",
    "NeuronConductance",
    "NeuronFeatureAblation",
    "NeuronGradient",
    "NeuronGradientShap",
    "NeuronIntegratedGradients",
    "NoiseTunnel",
    "Occlusion",
    "PerturbationAttribution",
    "Saliency",
]
