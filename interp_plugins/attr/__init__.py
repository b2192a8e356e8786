"""The methods, under Captum's names and signatures.

`from captum.attr import IntegratedGradients` becomes `from interp_plugins.attr import IntegratedGradients`. A
name is said once, by its import; `as` tells type checkers that it is public.
"""

from interp_plugins.attr.attention.relevance import (
    AttentionRelevance as AttentionRelevance,
    AttentionRollout as AttentionRollout,
    LeGrad as LeGrad,
)
from interp_plugins.attr.backward.deep_lift import (
    DeepLift as DeepLift,
    DeepLiftShap as DeepLiftShap,
)
from interp_plugins.attr.backward.deep_lift_layers import (
    LayerDeepLift as LayerDeepLift,
    LayerDeepLiftShap as LayerDeepLiftShap,
    NeuronDeepLift as NeuronDeepLift,
    NeuronDeepLiftShap as NeuronDeepLiftShap,
)
from interp_plugins.attr.backward.guided import (
    Deconvolution as Deconvolution,
    GuidedBackprop as GuidedBackprop,
    GuidedGradCam as GuidedGradCam,
    NeuronDeconvolution as NeuronDeconvolution,
    NeuronGuidedBackprop as NeuronGuidedBackprop,
)
from interp_plugins.attr.backward.lrp import (
    LRP as LRP,
    LayerLRP as LayerLRP,
)
from interp_plugins.attr.cam.base import (
    ClassActivationMap as ClassActivationMap,
    EigenGradCAM as EigenGradCAM,
    GradCAMPlusPlus as GradCAMPlusPlus,
    HiResCAM as HiResCAM,
    LayerCAM as LayerCAM,
    XGradCAM as XGradCAM,
)
from interp_plugins.attr.cam.finer_cam import FinerCAM as FinerCAM
from interp_plugins.attr.cam.grad_cam import LayerGradCam as LayerGradCam
from interp_plugins.attr.cam.gradient_free import (
    AblationCAM as AblationCAM,
    EigenCAM as EigenCAM,
    ScoreCAM as ScoreCAM,
)
from interp_plugins.attr.compat import visualization as visualization
from interp_plugins.attr.compat.embeddings import (
    InputIdentity as InputIdentity,
    InterpretableEmbeddingBase as InterpretableEmbeddingBase,
    ModelInputWrapper as ModelInputWrapper,
    TokenReferenceBase as TokenReferenceBase,
    configure_interpretable_embedding_layer as configure_interpretable_embedding_layer,
    interpretable_embedding_layer as interpretable_embedding_layer,
    remove_interpretable_embedding_layer as remove_interpretable_embedding_layer,
)
from interp_plugins.attr.compat.summary import (
    MSE as MSE,
    ClassSummarizer as ClassSummarizer,
    CommonStats as CommonStats,
    Count as Count,
    Max as Max,
    Mean as Mean,
    Min as Min,
    Stat as Stat,
    StatValue as StatValue,
    StdDev as StdDev,
    Sum as Sum,
    Summarizer as Summarizer,
    SummarizerSingleTensor as SummarizerSingleTensor,
    Var as Var,
)
from interp_plugins.attr.ensembles.augmentation import AugmentedAttribution as AugmentedAttribution
from interp_plugins.attr.ensembles.checkpoints import CheckpointAverage as CheckpointAverage
from interp_plugins.attr.ensembles.layers import LayerAverage as LayerAverage
from interp_plugins.attr.ensembles.noise_tunnel import NoiseTunnel as NoiseTunnel
from interp_plugins.attr.gradient.activation import (
    LayerActivation as LayerActivation,
    LayerGradientXActivation as LayerGradientXActivation,
)
from interp_plugins.attr.gradient.blur_ig import BlurIG as BlurIG
from interp_plugins.attr.gradient.conductance import (
    InternalInfluence as InternalInfluence,
    LayerConductance as LayerConductance,
    NeuronConductance as NeuronConductance,
)
from interp_plugins.attr.gradient.full_grad import FullGrad as FullGrad
from interp_plugins.attr.gradient.gradient_shap import GradientShap as GradientShap
from interp_plugins.attr.gradient.guided_ig import GuidedIG as GuidedIG
from interp_plugins.attr.gradient.hessians import IntegratedHessians as IntegratedHessians
from interp_plugins.attr.gradient.idgi import IDGI as IDGI
from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients as IntegratedGradients
from interp_plugins.attr.gradient.layers import (
    LayerGradientShap as LayerGradientShap,
    LayerIntegratedGradients as LayerIntegratedGradients,
)
from interp_plugins.attr.gradient.neurons import (
    NeuronGradient as NeuronGradient,
    NeuronGradientShap as NeuronGradientShap,
    NeuronIntegratedGradients as NeuronIntegratedGradients,
)
from interp_plugins.attr.gradient.saliency import (
    InputXGradient as InputXGradient,
    Saliency as Saliency,
)
from interp_plugins.attr.gradient.xrai import XRAI as XRAI
from interp_plugins.attr.language.interpretable import (
    ImageMaskInput as ImageMaskInput,
    InterpretableInput as InterpretableInput,
    ProductBaselines as ProductBaselines,
    TextTemplateInput as TextTemplateInput,
    TextTokenInput as TextTokenInput,
)
from interp_plugins.attr.language.llm import (
    LLMAttribution as LLMAttribution,
    RemoteLLMAttribution as RemoteLLMAttribution,
)
from interp_plugins.attr.language.llm_gradient import LLMGradientAttribution as LLMGradientAttribution
from interp_plugins.attr.language.llm_result import LLMAttributionResult as LLMAttributionResult
from interp_plugins.attr.language.remote import (
    RemoteLLMProvider as RemoteLLMProvider,
    VLLMProvider as VLLMProvider,
)
from interp_plugins.attr.perturbation.ablation import FeatureAblation as FeatureAblation
from interp_plugins.attr.perturbation.occlusion import Occlusion as Occlusion
from interp_plugins.attr.perturbation.dataloader import DataLoaderAttribution as DataLoaderAttribution
from interp_plugins.attr.perturbation.extremal import ExtremalPerturbation as ExtremalPerturbation
from interp_plugins.attr.perturbation.interactions import ShapleyInteractions as ShapleyInteractions
from interp_plugins.attr.perturbation.kernel_shap import KernelShap as KernelShap
from interp_plugins.attr.perturbation.lime import (
    Lime as Lime,
    LimeBase as LimeBase,
)
from interp_plugins.attr.perturbation.owen import OwenValues as OwenValues
from interp_plugins.attr.perturbation.permutation import (
    FeaturePermutation as FeaturePermutation,
    LayerFeaturePermutation as LayerFeaturePermutation,
)
from interp_plugins.attr.perturbation.rise import RISE as RISE
from interp_plugins.attr.perturbation.sensitivity import (
    HSIC as HSIC,
    Sobol as Sobol,
)
from interp_plugins.attr.perturbation.shapley import (
    ShapleyValues as ShapleyValues,
    ShapleyValueSampling as ShapleyValueSampling,
)
from interp_plugins.attr.perturbation.layers import (
    LayerFeatureAblation as LayerFeatureAblation,
    NeuronFeatureAblation as NeuronFeatureAblation,
)
from interp_plugins.attr.shared.base import (
    Attribution as Attribution,
    GradientAttribution as GradientAttribution,
    InternalAttribution as InternalAttribution,
    LayerAttribution as LayerAttribution,
    NeuronAttribution as NeuronAttribution,
    PerturbationAttribution as PerturbationAttribution,
)

# Not by an assignment: type checkers hide what an `__all__` that is not spelled out does not show them.
globals()["__all__"] = sorted(
    name
    for name, value in globals().items()
    if not name.startswith("_") and getattr(value, "__name__", "") != f"{__name__}.{name}"  # a folder of this one
)
