"""The methods, under Captum's names and signatures.

`from captum.attr import IntegratedGradients` becomes `from interp_plugins.attr import IntegratedGradients`.
"""

from interp_plugins.attr.attention.relevance import AttentionRelevance, AttentionRollout, LeGrad
from interp_plugins.attr.backward.deep_lift import DeepLift, DeepLiftShap
from interp_plugins.attr.backward.deep_lift_sites import (
    LayerDeepLift,
    LayerDeepLiftShap,
    NeuronDeepLift,
    NeuronDeepLiftShap,
)
from interp_plugins.attr.backward.guided import (
    Deconvolution,
    GuidedBackprop,
    GuidedGradCam,
    NeuronDeconvolution,
    NeuronGuidedBackprop,
)
from interp_plugins.attr.backward.lrp import LRP, LayerLRP
from interp_plugins.attr.cam.base import ClassActivationMap, EigenGradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from interp_plugins.attr.cam.finer_cam import FinerCAM
from interp_plugins.attr.cam.grad_cam import LayerGradCam
from interp_plugins.attr.cam.gradient_free import AblationCAM, EigenCAM, ScoreCAM
from interp_plugins.attr.compat import visualization
from interp_plugins.attr.compat.embeddings import (
    InputIdentity,
    InterpretableEmbeddingBase,
    ModelInputWrapper,
    TokenReferenceBase,
    configure_interpretable_embedding_layer,
    interpretable_embedding_layer,
    remove_interpretable_embedding_layer,
)
from interp_plugins.attr.compat.summary import (
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
from interp_plugins.attr.ensembles.noise_tunnel import NoiseTunnel
from interp_plugins.attr.ensembles.transforms import AugmentedAttribution, CheckpointAverage, LayerAverage
from interp_plugins.attr.gradient.activation import LayerActivation, LayerGradientXActivation
from interp_plugins.attr.gradient.blur_ig import BlurIG
from interp_plugins.attr.gradient.conductance import InternalInfluence, LayerConductance, NeuronConductance
from interp_plugins.attr.gradient.full_grad import FullGrad
from interp_plugins.attr.gradient.gradient_shap import GradientShap
from interp_plugins.attr.gradient.guided_ig import GuidedIG
from interp_plugins.attr.gradient.hessians import IntegratedHessians
from interp_plugins.attr.gradient.idgi import IDGI
from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients
from interp_plugins.attr.gradient.layers import LayerGradientShap, LayerIntegratedGradients
from interp_plugins.attr.gradient.neurons import NeuronGradient, NeuronGradientShap, NeuronIntegratedGradients
from interp_plugins.attr.gradient.saliency import InputXGradient, Saliency
from interp_plugins.attr.gradient.xrai import XRAI
from interp_plugins.attr.language.interpretable import (
    ImageMaskInput,
    InterpretableInput,
    ProductBaselines,
    TextTemplateInput,
    TextTokenInput,
)
from interp_plugins.attr.language.llm import LLMAttribution, LLMGradientAttribution, RemoteLLMAttribution
from interp_plugins.attr.language.llm_result import LLMAttributionResult
from interp_plugins.attr.language.remote import RemoteLLMProvider, VLLMProvider
from interp_plugins.attr.perturbation.ablation import FeatureAblation, Occlusion
from interp_plugins.attr.perturbation.dataloader import DataLoaderAttribution
from interp_plugins.attr.perturbation.extremal import ExtremalPerturbation
from interp_plugins.attr.perturbation.interactions import ShapleyInteractions
from interp_plugins.attr.perturbation.kernel_shap import KernelShap
from interp_plugins.attr.perturbation.lime import Lime, LimeBase
from interp_plugins.attr.perturbation.owen import OwenValues
from interp_plugins.attr.perturbation.permutation import FeaturePermutation, LayerFeaturePermutation
from interp_plugins.attr.perturbation.rise import RISE
from interp_plugins.attr.perturbation.sensitivity import HSIC, Sobol
from interp_plugins.attr.perturbation.shapley import ShapleyValues, ShapleyValueSampling
from interp_plugins.attr.perturbation.sites import LayerFeatureAblation, NeuronFeatureAblation
from interp_plugins.attr.shared.base import (
    Attribution,
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
    NeuronAttribution,
    PerturbationAttribution,
)

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
