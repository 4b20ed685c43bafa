"""pytorch-grad-cam 1.5.7 over camfast: the same names, signatures and results.

>>> from camfast.compat.pytorch_grad_cam import GradCAM                                      # doctest: +SKIP
>>> from camfast.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget   # doctest: +SKIP
>>> with GradCAM(model=model, target_layers=[model.layer4[-1]]) as cam:                      # doctest: +SKIP
...     heatmaps = cam(input_tensor=x, targets=[ClassifierOutputTarget(281)])
"""

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam import metrics, utils
from camfast.compat.pytorch_grad_cam.ablation_cam import AblationCAM
from camfast.compat.pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerFasterRCNN, AblationLayerVit
from camfast.compat.pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from camfast.compat.pytorch_grad_cam.eigen_cam import EigenCAM
from camfast.compat.pytorch_grad_cam.eigen_grad_cam import EigenGradCAM
from camfast.compat.pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization,
    run_dff_on_image,
)
from camfast.compat.pytorch_grad_cam.fem import FEM
from camfast.compat.pytorch_grad_cam.finer_cam import FinerCAM
from camfast.compat.pytorch_grad_cam.fullgrad_cam import FullGrad
from camfast.compat.pytorch_grad_cam.grad_cam import GradCAM
from camfast.compat.pytorch_grad_cam.grad_cam_elementwise import GradCAMElementWise
from camfast.compat.pytorch_grad_cam.grad_cam_plusplus import GradCAMPlusPlus
from camfast.compat.pytorch_grad_cam.guided_backprop import GuidedBackpropReLUModel
from camfast.compat.pytorch_grad_cam.hirescam import HiResCAM
from camfast.compat.pytorch_grad_cam.kpca_cam import KPCA_CAM
from camfast.compat.pytorch_grad_cam.layer_cam import LayerCAM
from camfast.compat.pytorch_grad_cam.random_cam import RandomCAM
from camfast.compat.pytorch_grad_cam.refine_cam import RefineCAM
from camfast.compat.pytorch_grad_cam.score_cam import ScoreCAM
from camfast.compat.pytorch_grad_cam.seg_eigen_cam import SegEigenCAM
from camfast.compat.pytorch_grad_cam.sess import SESS
from camfast.compat.pytorch_grad_cam.shapley_cam import ShapleyCAM
from camfast.compat.pytorch_grad_cam.xgrad_cam import XGradCAM

__all__ = [
    "FEM",
    "KPCA_CAM",
    "SESS",
    "AblationCAM",
    "AblationLayer",
    "AblationLayerFasterRCNN",
    "AblationLayerVit",
    "ActivationsAndGradients",
    "DeepFeatureFactorization",
    "EigenCAM",
    "EigenGradCAM",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GuidedBackpropReLUModel",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
    "metrics",
    "run_dff_on_image",
    "utils",
]

__getattr__ = missing(__name__, {"GradCAMpp": "GradCAMPlusPlus", "BaseCAM": "base_cam.BaseCAM"})
