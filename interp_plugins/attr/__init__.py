"""The methods, under Captum's names and signatures.

`from captum.attr import IntegratedGradients` becomes `from interp_plugins.attr import IntegratedGradients`.
"""

from . import visualization
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
from .blur_ig import BlurIG
from .cam import ClassActivationMap, EigenGradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from .cam_forward import AblationCAM, EigenCAM, ScoreCAM
from .conductance import InternalInfluence, LayerConductance, NeuronConductance
from .dataloader import DataLoaderAttribution
from .deep_lift import DeepLift, DeepLiftShap
from .deep_lift_sites import LayerDeepLift, LayerDeepLiftShap, NeuronDeepLift, NeuronDeepLiftShap
from .embeddings import (
    InputIdentity,
    InterpretableEmbeddingBase,
    ModelInputWrapper,
    TokenReferenceBase,
    configure_interpretable_embedding_layer,
    interpretable_embedding_layer,
    remove_interpretable_embedding_layer,
)
from .extremal import ExtremalPerturbation
from .finer_cam import FinerCAM
from .full_grad import FullGrad
from .grad_cam import LayerGradCam
from .gradient import InputXGradient, Saliency
from .gradient_shap import GradientShap
from .guided import Deconvolution, GuidedBackprop, GuidedGradCam, NeuronDeconvolution, NeuronGuidedBackprop
from .guided_ig import GuidedIG
from .hessians import IntegratedHessians
from .idgi import IDGI
from .integrated_gradients import IntegratedGradients
from .interactions import ShapleyInteractions
from .interpretable import ImageMaskInput, InterpretableInput, ProductBaselines, TextTemplateInput, TextTokenInput
from .kernel_shap import KernelShap
from .layer import LayerFeatureAblation, LayerGradientShap, LayerIntegratedGradients
from .lime import Lime, LimeBase
from .llm import LLMAttribution, LLMGradientAttribution, RemoteLLMAttribution
from .llm_result import LLMAttributionResult
from .lrp import LRP, LayerLRP
from .neuron import NeuronFeatureAblation, NeuronGradient, NeuronGradientShap, NeuronIntegratedGradients
from .noise_tunnel import NoiseTunnel
from .owen import OwenValues
from .permutation import FeaturePermutation, LayerFeaturePermutation
from .remote import RemoteLLMProvider, VLLMProvider
from .rise import RISE
from .sensitivity import HSIC, Sobol
from .shapley import ShapleyValues, ShapleyValueSampling
from .summary import (
    MSE,
    ClassSummarizer,
    CommonStats,
    Count,
    Max,
    Mean,
    Min,
    Stat,
    StatValue,
    StdDev,
    Sum,
    Summarizer,
    SummarizerSingleTensor,
    Var,
)
from .transforms import AugmentedAttribution, CheckpointAverage, LayerAverage
from .xrai import XRAI

__all__ = [
    "AblationCAM",
    "AttentionRelevance",
    "AttentionRollout",
    "Attribution",
    "AugmentedAttribution",
    "BlurIG",
    "CheckpointAverage",
    "ClassActivationMap",
    "ClassSummarizer",
    "CommonStats",
    "Count",
    "DataLoaderAttribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "EigenCAM",
    "EigenGradCAM",
    "ExtremalPerturbation",
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
    "GuidedIG",
    "HiResCAM",
    "IDGI",
    "ImageMaskInput",
    "InputIdentity",
    "InputXGradient",
    "IntegratedGradients",
    "IntegratedHessians",
    "InternalAttribution",
    "InternalInfluence",
    "InterpretableEmbeddingBase",
    "InterpretableInput",
    "KernelShap",
    "LLMAttribution",
    "LLMAttributionResult",
    "LLMGradientAttribution",
    "LRP",
    "LayerActivation",
    "LayerAttribution",
    "LayerAverage",
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
    "LayerLRP",
    "LeGrad",
    "Lime",
    "LimeBase",
    "MSE",
    "Max",
    "Mean",
    "Min",
    "ModelInputWrapper",
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
    "ProductBaselines",
    "RISE",
    "RemoteLLMAttribution",
    "RemoteLLMProvider",
    "Saliency",
    "XRAI",
    "ScoreCAM",
    "ShapleyInteractions",
    "ShapleyValueSampling",
    "ShapleyValues",
    "Sobol",
    "Stat",
    "StatValue",
    "StdDev",
    "Sum",
    "Summarizer",
    "SummarizerSingleTensor",
    "TextTemplateInput",
    "TextTokenInput",
    "TokenReferenceBase",
    "VLLMProvider",
    "Var",
    "XGradCAM",
    "configure_interpretable_embedding_layer",
    "interpretable_embedding_layer",
    "remove_interpretable_embedding_layer",
    "visualization",
]
