"""A package from PyPI that was written for grad-cam works with the drop-in in its place, without knowing of it."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from camfast.compat.swap import swap
from camfast.images import read_image

X = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(6))
PEERS = ("captum", "pytorch_grad_cam", "torchcam")


@contextlib.contextmanager
def imports_of_its_own(*packages: str) -> Iterator[None]:
    """A block that imports these packages anew; afterwards they are what they were."""

    def taken() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in packages}

    before = taken()
    try:
        yield
    finally:
        taken()
        sys.modules.update(before)


@pytest.fixture
def fresh():
    with imports_of_its_own(*PEERS, "visflow"):
        yield


def graph_cam(swapped: bool, model: nn.Module | None = None):
    """visflow's explainer, which imports grad-cam by its name, at the top of its module."""
    with imports_of_its_own("pytorch_grad_cam", "visflow"):
        if swapped:
            swap("pytorch_grad_cam")
        module = importlib.import_module("visflow.helpers.gradcam")
        assert (module.gradcam.__name__ == "camfast.compat.pytorch_grad_cam") == swapped
        torch.manual_seed(0)
        make = importlib.import_module("visflow.resources.models").make_model
        model = make("resnet18", num_classes=10, pretrained=False) if model is None else model
        return module.GraphCAM(model, device="cpu")


@pytest.fixture(scope="module")
def both():
    return graph_cam(swapped=True), graph_cam(swapped=False)


class TestVisflow:
    @pytest.mark.parametrize(
        ("target_class", "smooth", "tolerance"),
        [
            (None, {}, 1e-4),
            (3, {}, 1e-4),
            (None, {"aug_smooth": True}, 1e-4),
            (3, {"aug_smooth": True}, 1e-4),
            (3, {"eigen_smooth": True}, 1e-3),  # whose sign grad-cam leaves to chance; here it is that of the drop-in
        ],
    )
    def test_its_heatmaps_are_the_same(self, both, target_class, smooth, tolerance):
        ours, theirs = (each.cam(X, target_class, **smooth) for each in both)
        assert isinstance(ours, np.ndarray)
        assert ours.shape == theirs.shape == (1, 64, 80)
        assert ours.dtype == theirs.dtype == np.float32
        assert np.abs(ours - theirs).max() <= tolerance
        assert theirs.max() > 0.4

    def test_its_pictures_are_the_same(self, both, tmp_path):
        import cv2

        image = np.random.default_rng(0).random((64, 80, 3), dtype=np.float32)
        for name, cam in zip(("ours", "theirs"), both, strict=True):
            cam.save_cam(X, image, tmp_path / f"{name}-cam.png", 3, colormap=cv2.COLORMAP_JET)
            cam.save_heatmap(X, tmp_path / f"{name}-heat.png", 3)
        for kind in ("cam", "heat"):
            one, other = (read_image(tmp_path / f"{name}-{kind}.png").astype(int) for name in ("ours", "theirs"))
            assert one.shape == (64, 80, 3)
            assert np.abs(one - other).mean() < 0.5
            assert np.abs(one - other).max() <= 8  # a level of the colour map

    def test_its_model_may_be_frozen(self, both):
        ours, _ = both
        expected = ours.cam(X, 3)
        frozen = graph_cam(swapped=True, model=ours.model.requires_grad_(False))
        with torch.no_grad():
            found = frozen.cam(X, 3)
        ours.model.requires_grad_(True)
        assert np.abs(found - expected).max() <= 1e-5
        assert all(parameter.grad is None for parameter in ours.model.parameters())


class TestSwap:
    def test_every_module_has_the_name_of_the_peer(self, fresh):
        swap(*PEERS)
        import captum.attr
        import pytorch_grad_cam
        import pytorch_grad_cam.utils.model_targets as model_targets
        import torchcam
        from captum.attr._core.layer.grad_cam import LayerGradCam
        from torchcam.methods import GradCAM

        import camfast.compat as compat

        assert captum.attr.LayerGradCam is LayerGradCam is compat.captum.attr.LayerGradCam
        assert pytorch_grad_cam is compat.pytorch_grad_cam
        assert model_targets is compat.pytorch_grad_cam.utils.model_targets
        assert torchcam.methods.GradCAM is GradCAM is compat.torchcam.methods.GradCAM

    def test_twice_is_as_once(self, fresh):
        swap("captum")
        swap("captum")
        assert sys.modules["captum.attr"].__name__ == "camfast.compat.captum.attr"

    def test_what_is_missing_says_what_is_there(self, fresh):
        swap("captum")
        with pytest.raises(ImportError, match="does not provide 'Saliency'; nearest: GuidedBackprop"):
            from captum.attr import Saliency  # noqa: F401

    def test_a_peer_that_is_imported_already_is_refused(self, fresh):
        import torchcam  # noqa: F401

        with pytest.raises(RuntimeError, match="torchcam is imported already; call swap before anything imports it"):
            swap("captum", "torchcam")
        assert "captum" not in sys.modules

    def test_unknown_peers_are_refused(self):
        with pytest.raises(
            ValueError, match="peer 'lime' has no drop-in; expected some of captum, pytorch_grad_cam, to"
        ):
            swap("lime")
