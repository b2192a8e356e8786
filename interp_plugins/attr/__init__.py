"""The methods, under Captum's names and signatures.

`from captum.attr import IntegratedGradients` becomes `from interp_plugins.attr import IntegratedGradients`.
"""

from .ablation import FeatureAblation, Occlusion
from .activation import LayerActivation, LayerGradientXActivation
from .attention import AttentionRelevance, AttentionRollout, LeGrad
from .base import (
    Attribution,
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
    NeuronAttribution,
    PerturbationAttribution,
)
from .cam import ClassActivationMap, EigenGradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from .cam_forward import AblationCAM, EigenCAM, ScoreCAM
from .conductance import InternalInfluence, LayerConductance, NeuronConductance
from .deep_lift import DeepLift, DeepLiftShap
from .deep_lift_sites import LayerDeepLift, LayerDeepLiftShap, NeuronDeepLift, NeuronDeepLiftShap
from .finer_cam import FinerCAM
from .full_grad import FullGrad
from .grad_cam import LayerGradCam
from .gradient import InputXGradient, Saliency
from .gradient_shap import GradientShap
from .guided import Deconvolution, GuidedBackprop, GuidedGradCam, NeuronDeconvolution, NeuronGuidedBackprop
from .integrated_gradients import IntegratedGradients
from .interactions import ShapleyInteractions
from .kernel_shap import KernelShap
from .layer import LayerFeatureAblation, LayerGradientShap, LayerIntegratedGradients
from .lime import Lime, LimeBase
from .lrp import LRP, LayerLRP
from .neuron import NeuronFeatureAblation, NeuronGradient, NeuronGradientShap, NeuronIntegratedGradients
from .noise_tunnel import NoiseTunnel
from .owen import OwenValues
from .permutation import FeaturePermutation, LayerFeaturePermutation
from .rise import RISE
from .sensitivity import HSIC, Sobol
from .shapley import ShapleyValues, ShapleyValueSampling

__all__ = [
    "AblationCAM",
    "AttentionRelevance",
    "AttentionRollout",
    "Attribution",
    "ClassActivationMap",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "EigenCAM",
    "EigenGradCAM",
    "FeatureAblation",
    "FeaturePermutation",
    "FinerCAM",
    "FullGrad",
    "GradCAMPlusPlus",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "HSIC",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "InternalAttribution",
    "InternalInfluence",
    "KernelShap",
    "LRP",
    "LayerActivation",
    "LayerAttribution",
    "LayerCAM",
    "LayerConductance",
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "LayerFeatureAblation",
    "LayerFeaturePermutation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LeGrad",
    "LayerLRP",
    "Lime",
    "LimeBase",
    "NeuronAttribution",
    "NeuronConductance",
    "NeuronDeconvolution",
    "NeuronDeepLift",
    "NeuronDeepLiftShap",
    "NeuronFeatureAblation",
    "NeuronGradient",
    "NeuronGradientShap",
    "NeuronGuidedBackprop",
    "NeuronIntegratedGradients",
    "NoiseTunnel",
    "Occlusion",
    "OwenValues",
    "PerturbationAttribution",
    "RISE",
    "Saliency",
    "ShapleyInteractions",
    "ShapleyValueSampling",
    "ShapleyValues",
    "Sobol",
]
