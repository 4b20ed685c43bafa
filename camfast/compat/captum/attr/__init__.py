"""Attributions by captum's names: Grad-CAM of a layer, guided backpropagation, and their product."""

from camfast.compat._missing import missing
from camfast.compat.captum.attr._core.guided_backprop_deconvnet import GuidedBackprop
from camfast.compat.captum.attr._core.guided_grad_cam import GuidedGradCam
from camfast.compat.captum.attr._core.layer.grad_cam import LayerGradCam
from camfast.compat.captum.attr._utils.attribution import Attribution, GradientAttribution, LayerAttribution

__all__ = [
    "Attribution",
    "GradientAttribution",
    "GuidedBackprop",
    "GuidedGradCam",
    "LayerAttribution",
    "LayerGradCam",
]
_GUIDED, _LAYER = "GuidedBackprop", "LayerGradCam"
__getattr__ = missing(
    __name__,
    {
        "Saliency": _GUIDED,
        "InputXGradient": _GUIDED,
        "IntegratedGradients": _GUIDED,
        "GradientShap": _GUIDED,
        "DeepLift": _GUIDED,
        "DeepLiftShap": _GUIDED,
        "Deconvolution": _GUIDED,
        "LRP": _GUIDED,
        "NoiseTunnel": "camfast.SmoothGradCAMPlusPlus, for maps of noisy images",
        "Occlusion": "camfast.ReciproCAM and camfast.ScoreCAM, which mask instead of differentiate",
        "FeatureAblation": "camfast.AblationCAM, which ablates channels",
        "LayerActivation": "camfast.capture",
        "LayerGradientXActivation": f"{_LAYER}.attribute(…, attr_dim_summation=False), or camfast.HiResCAM",
        "LayerConductance": _LAYER,
        "LayerIntegratedGradients": _LAYER,
        "LayerDeepLift": _LAYER,
        "LayerDeepLiftShap": _LAYER,
        "LayerGradientShap": _LAYER,
        "LayerLRP": _LAYER,
        "InternalInfluence": _LAYER,
        "LayerFeatureAblation": "camfast.AblationCAM",
        "visualization": "camfast.overlay and camfast.plots",
    },
)
