"""Whatever an instance of a peer's class has, that of the drop-in has too, or says what is nearest."""

import copy
import importlib
import inspect
import pickle
import pkgutil

import pytest
import torch
import torchvision
from torch import nn

from camfast.compat import captum, pytorch_grad_cam, torchcam
from camfast.compat.pytorch_grad_cam import base_cam
from camfast.compat.torchcam import methods


def _pairs():
    """Every public class of the peers for which the drop-in has one at the same place: (theirs, ours)."""
    for package in (pytorch_grad_cam, torchcam, captum):
        for module in [package, *map(_import, _names(package))]:
            try:
                peer = importlib.import_module(module.__name__.removeprefix("camfast.compat."))
            except ImportError:  # a module of the drop-in's own
                continue
            for name, theirs in vars(peer).items():
                ours = vars(module).get(name)
                own = inspect.isclass(theirs) and theirs.__module__ == peer.__name__
                if own and inspect.isclass(ours) and not (name.startswith("_") or inspect.isabstract(ours)):
                    yield pytest.param(theirs, ours, id=f"{peer.__name__}.{name}")


def _names(package):
    return [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]


_import = importlib.import_module


def _convolutions():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def _transformer():
    return torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=5).eval()


def _made(kind, cams):
    """An instance, with something for each argument that has no default."""
    model = _transformer() if kind.__name__ == "LeGrad" else _convolutions()
    layer = model.encoder.layers[0] if kind.__name__ == "LeGrad" else model[0]
    known = {
        "model": model,
        "forward_func": model,
        "layer": layer,
        "target_layer": layer,
        "target_layers": [layer],
        "cam_extractor": cams.GradCAM(model, layer),
        "category": 1,
        "mask": torch.ones(2, 2).numpy(),
        "comparison_categories": [2],
        "main_category": 1,
        "alpha": 0.5,
        "percentile": 50,
    }
    if kind.__name__ == "RefineCAM" and "torchcam" in kind.__module__:
        known["target_layer"] = [model[0], model[1]]
    empty = inspect.Parameter.empty
    wanted = [
        p.name for p in inspect.signature(kind).parameters.values() if p.default is empty and p.kind != p.VAR_KEYWORD
    ]
    return kind(**{name: known.get(name) for name in wanted if name not in ("args", "kwargs")})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("theirs", "ours"), list(_pairs()))
def test_every_public_attribute_is_there_or_says_what_is_nearest(theirs, ours):
    peer = _made(theirs, importlib.import_module("torchcam.methods"))
    own = _made(ours, methods)
    for name in dir(peer):
        if name.startswith("_"):
            continue
        try:
            getattr(peer, name)
        except AttributeError:  # not there before a call
            continue
        if not hasattr(own, name):
            with pytest.raises(AttributeError, match=rf"{ours.__name__} does not provide '{name}'; nearest: \w"):
                getattr(own, name)


@pytest.fixture
def cam():
    model = _convolutions()
    return pytorch_grad_cam.GradCAM(model, [model[0]])


class TestNames:
    def test_of_the_peer(self):
        cam = pytorch_grad_cam.FullGrad(_convolutions(), [])
        with pytest.raises(
            AttributeError, match=r"FullGrad does not provide 'bias_data'; nearest: the bias of the layers themselves$"
        ):
            cam.bias_data  # noqa: B018

    def test_of_a_parent_s(self):
        class Mine(pytorch_grad_cam.AblationCAM):
            pass

        model = _convolutions()
        with pytest.raises(
            AttributeError, match=r"Mine does not provide 'activations'; nearest: activations_and_grads"
        ):
            Mine(model, [model[0]]).activations  # noqa: B018

    @pytest.mark.parametrize(("name", "hint"), [("target_layer", "did you mean target_layers"), ("_htcore", "known: ")])
    def test_of_nobody(self, cam, name, hint):
        with pytest.raises(AttributeError, match=rf"GradCAM does not provide '{name}'; {hint}"):
            getattr(cam, name)

    def test_of_an_extractor_and_of_an_attribution(self):
        model = _convolutions()
        with (
            methods.GradCAM(model, model[0]) as extractor,
            pytest.raises(AttributeError, match="does not provide 'target_name'; did you mean target_names"),
        ):
            extractor.target_name  # noqa: B018
        with pytest.raises(
            AttributeError, match="does not provide 'gradient_func'; nearest: attribute, whose gradient"
        ):
            captum.attr.LayerGradCam(model, model[0]).gradient_func  # noqa: B018


class TestPython:
    def test_hasattr_and_getattr_with_a_default(self, cam):
        assert not hasattr(cam, "bias_data")
        assert getattr(cam, "bias_data", 1) == 1
        assert not hasattr(cam, "__len__")

    def test_one_s_own_attributes(self, cam):
        cam.bias_data = 3
        assert cam.bias_data == 3

    def test_copies(self, cam):
        assert copy.copy(cam).target_layers is cam.target_layers
        assert isinstance(copy.deepcopy(cam), pytorch_grad_cam.GradCAM)

    def test_pickles(self):
        metric = pytorch_grad_cam.metrics.road.NoisyLinearImputer(noise=0.5)
        assert pickle.loads(pickle.dumps(metric)).noise == 0.5

    def test_a_property_that_fails_says_so_itself(self):
        class Mine(base_cam.BaseCAM):
            @property
            def heat(self):
                return torch.nothing_of_that_name

        model = _convolutions()
        with pytest.raises(AttributeError, match=r"module 'torch' has no attribute 'nothing_of_that_name'"):
            Mine(model, [model[0]]).heat  # noqa: B018
