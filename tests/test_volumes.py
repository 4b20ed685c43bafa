"""Three dimensions: volumes and clips."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

import camfast
from camfast import volumes
from camfast.methods import METHODS

X = torch.randn(2, 1, 10, 12, 14, generator=torch.Generator().manual_seed(3))
SIZE = (10, 12, 14)


class Net3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(1, 6, 3, stride=2, padding=1)
        self.body = nn.Conv3d(6, 9, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(9, 4)

    def forward(self, x):
        return self.head(self.act(self.body(self.stem(x).relu())).mean((2, 3, 4)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(5)
    return Net3d().eval()


def seen(net, classes):
    with camfast.capture(net, "act") as found:
        net(X)[torch.arange(2), classes].sum().backward()
    net.zero_grad(set_to_none=True)
    return found.activations["act"].double(), found.gradients["act"].double()


def upsampled(layer):
    maps = interpolate(layer[:, None].relu(), SIZE, mode="trilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return (maps - low) / (high - low)


def close(ours, theirs, within=1e-5):
    assert (ours.double() - theirs.double()).abs().max() <= within


FORMULAS = {
    "gradcam": lambda a, g: (g.mean((2, 3, 4), keepdim=True) * a).sum(1),
    "xgradcam": lambda a, g: ((g * a).sum((2, 3, 4)) / (a.sum((2, 3, 4)) + 1e-7))[..., None, None, None].mul(a).sum(1),
    "hirescam": lambda a, g: (g * a).sum(1),
    "elementwise": lambda a, g: (g * a).relu().sum(1),
    "layercam": lambda a, g: (g.relu() * a).sum(1),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_rules_are_their_formulas(net, name):
    found = METHODS[name](net, "act").explain(X, [1, 3])
    assert found.heatmaps.shape == (2, *SIZE)
    close(found.heatmaps, upsampled(FORMULAS[name](*seen(net, [1, 3]))))
    assert repr(found).startswith("Explanation(2 heatmaps of 10×12×14 on cpu")


def test_the_layer_is_found(net):
    assert camfast.GradCAM(net).explain(X).heatmaps.shape == (2, *SIZE)


def test_torchcam(net):
    from torchcam.methods import LayerCAM

    with LayerCAM(net, "act", input_shape=(1, *SIZE)) as peer:
        maps = peer([1, 3], net(X.clone().requires_grad_()))[0].detach()
    net.zero_grad(set_to_none=True)
    close(camfast.METHODS["layercam"](net, "act")(X, [1, 3]), upsampled(maps.double()), 1e-4)


def test_pytorch_grad_cam_at_the_size_of_the_layer(net):
    """Theirs enlarges volumes by splines of the third degree, so that only maps of the layer can be the same."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class AtLayer(GradCAM):
        def get_target_width_height(self, input_tensor):
            return None

    peer = AtLayer(net, [net.act])
    theirs = peer(X.clone(), [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
    net.zero_grad(set_to_none=True)
    close(camfast.GradCAM(net, "act")(X, [1, 3], size="layer"), torch.from_numpy(theirs), 1e-4)


@pytest.mark.parametrize(
    "name", ["cam", "scorecam", "iscam", "ablationcam", "reciprocam", "smoothgradcam++", "finercam", "augmented"]
)
def test_other_methods(net, name):
    found = METHODS[name](net, "act").explain(X, [1, 3])
    assert found.heatmaps.shape == (2, *SIZE)
    assert found.heatmaps.amax((1, 2, 3)).sub(1).abs().max() < 1e-6
    one = METHODS[name](net, "act")(X[1:], 3)
    close(found.heatmaps[1:], one, 1e-4)


def test_several_classes(net):
    found = camfast.GradCAM(net, "act").explain(X, camfast.TopK(2))
    assert found.heatmaps.shape == (2, 2, *SIZE)
    top = net(X).topk(2).indices
    close(found.heatmaps[:, 1], camfast.GradCAM(net, "act")(X, top[:, 1]))


def test_several_layers(net):
    found = camfast.GradCAM(net, ["stem", "act"])(X, 1)
    layers = [camfast.GradCAM(net, name)(X, 1, size="layer") for name in ("stem", "act")]
    close(found, upsampled(sum(interpolate(m[:, None].double(), SIZE, mode="trilinear")[:, 0] for m in layers)))


def test_what_is_not_finite_touches_no_other_volume(net):
    spoiled = X.clone()
    spoiled[0, 0, 3, 3, 3] = torch.nan
    found = camfast.GradCAM(net, "act").explain(spoiled, 1)
    assert (found.heatmaps[0] == 0).all()
    assert found.ranges[0].isnan().all()
    close(found.heatmaps[1:], camfast.GradCAM(net, "act")(X, 1)[1:])


def test_a_map_is_stretched_and_cut_off():
    maps = torch.tensor([[[[-2.0, 0.0], [1.0, 4.0]]], [[[5.0, 5.0], [5.0, 5.0]]]])
    drawn, ranges = volumes.drawn(maps, None, relu=True, normalize=True)
    assert drawn.tolist() == [[[[0, 0], [0.25, 1]]], [[[0, 0], [0, 0]]]]
    assert ranges.tolist() == [[0, 4], [5, 5]]


def test_a_constant_map_stays_constant_when_enlarged():
    drawn, ranges = volumes.drawn(torch.full((1, 2, 3, 3), 0.1), (5, 7, 8), relu=False, normalize=True)
    assert (drawn == 0).all()
    assert ranges[0, 0] == ranges[0, 1]


@pytest.mark.parametrize("size", [(3, 4), (0, 4, 4), (2.0, 3, 3), 5, (5,), "all"])
def test_a_size_that_is_none(net, size):
    message = r"size=.*; expected \(depth, height, width\), each at least 1, for volumes"
    for method in (camfast.GradCAM(net, "act"), camfast.FullGrad(net)):
        with pytest.raises(ValueError, match=message):
            method(X, 1, size=size)
    with pytest.raises(ValueError, match=message):
        camfast.DeepFeatureFactorization(net, "act").factorize(X, 2, size=size)
