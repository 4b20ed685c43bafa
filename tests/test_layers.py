"""Finding and naming layers."""

import pytest
import torch
import torchvision
from nets import CifarNet, PooledNet
from torch import nn

import camfast
from camfast.inputs import check_inputs
from camfast.layer_runs import trace_layers
from camfast.layers import resolve_layers
from camfast.target_layer import find_target_layer


def found_in(model, x):
    with torch.no_grad():
        return find_target_layer(trace_layers(model.eval(), check_inputs(x)))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("vgg11", "features"),
        ("alexnet", "features"),
        ("densenet121", "features"),
        ("mobilenet_v3_small", "features"),
        ("efficientnet_b0", "features"),
        ("convnext_tiny", "features"),
        ("shufflenet_v2_x0_5", "conv5"),
        ("regnet_y_400mf", "trunk_output"),
        ("mnasnet0_5", "layers"),
        ("googlenet", "inception5b"),
        ("swin_t", "permute"),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_the_last_spatial_layer_of_known_models(name, layer):
    model = torchvision.models.get_model(name)
    assert found_in(model, torch.randn(1, 3, 96, 96)) == layer


def test_the_last_spatial_layer_of_small_models():
    assert found_in(CifarNet(), torch.randn(1, 3, 32, 32)) == "conv3"  # not the pooling, which also ran before
    assert found_in(PooledNet(), torch.randn(1, 3, 16, 16)) == "act2"


def test_a_module_that_runs_again_without_a_map_is_passed_over():
    class OneReLU(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc, self.relu = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.ReLU()

        def forward(self, x):
            return self.relu(self.fc(self.relu(self.conv(x)).mean((2, 3))))

    assert found_in(OneReLU(), torch.randn(1, 3, 8, 8)) == "conv"


def test_a_model_without_feature_maps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(
        ValueError, match=r"no layer of the model puts out a feature map \[N, C, h, w\]; give target_layers"
    ):
        camfast.GradCAM(model)(torch.randn(1, 3, 2, 2))


def test_channels_last_are_read_as_such():
    class Swinlike(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

    model, x = Swinlike(), torch.randn(2, 3, 16, 16)
    expected = camfast.GradCAM(model, "norm", reshape_transform=lambda t: t.permute(0, 3, 1, 2))(x)
    cam = camfast.GradCAM(model)
    assert cam(x).equal(expected)
    assert cam.target_layers == ["norm"]
    assert camfast.GradCAM(model, "norm")(x).equal(expected)


def test_timm_models_with_channels_last():
    timm = pytest.importorskip("timm")
    x = torch.randn(1, 3, 224, 224)
    assert found_in(timm.create_model("swin_tiny_patch4_window7_224"), x) == "norm"
    assert found_in(timm.create_model("convnext_atto"), x) == "stages"


def test_a_shared_module_has_every_one_of_its_names():
    model = PooledNet()
    model.alias = model.conv
    assert resolve_layers(model, "alias") == {"alias": model.conv}
    assert list(resolve_layers(model, model.conv)) == ["conv"]


def test_layers_by_glob_and_by_type():
    model = torchvision.models.resnet18()
    assert list(resolve_layers(model, "layer?")) == ["layer1", "layer2", "layer3", "layer4"]
    assert list(resolve_layers(model, "layer[12].0.conv*")) == [
        f"layer{stage}.0.conv{number}" for stage in (1, 2) for number in (1, 2)
    ]
    assert len(resolve_layers(model, "*.conv*")) == 16  # the star goes past dots
    assert "" not in resolve_layers(model, "*")
    assert list(resolve_layers(model, nn.Conv2d))[:2] == ["conv1", "layer1.0.conv1"]
    assert len(resolve_layers(model, (nn.MaxPool2d, nn.AdaptiveAvgPool2d, "fc"))) == 3
    assert list(resolve_layers(model, torchvision.models.ResNet)) == [""]
    assert list(resolve_layers(model, ["fc", "layer4.*.conv1", "layer4.0.*"]))[:3] == [
        "fc", "layer4.0.conv1", "layer4.1.conv1"
    ]  # fmt: skip
    cam = camfast.GradCAM(model.eval(), ["layer3", "layer[4]"])
    assert cam.target_layers == ["layer3", "layer4"]


def test_a_shared_module_is_found_once_by_a_glob_or_a_type():
    model = PooledNet()
    model.conv_again = model.conv
    assert list(resolve_layers(model, "conv*")) == ["conv"]
    assert list(resolve_layers(model, nn.Conv2d)) == ["stem", "conv"]
    assert list(resolve_layers(model, "*again")) == ["conv_again"]


def test_layers_by_name_and_by_module():
    model = torchvision.models.resnet18()
    named = resolve_layers(model, ["layer4.1", model.layer3, "layer1"])
    assert named == {"layer4.1": model.layer4[1], "layer3": model.layer3, "layer1": model.layer1}
    assert list(named) == ["layer4.1", "layer3", "layer1"]
    assert resolve_layers(model, model.layer4) == {"layer4": model.layer4}  # a Sequential is one layer
    assert resolve_layers(model, "layer4") == {"layer4": model.layer4}


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("layer5", ValueError, r"target layer 'layer5' is not in the model; did you mean layer4, layer3, layer2\?"),
        (["layer4", "zzz"], ValueError, "target layer 'zzz' is not in the model; known: conv1, bn1, relu"),
        ("", None, None),
        (nn.Conv2d(3, 3, 3), ValueError, "target layer Conv2d is not a module of this model"),
        (4, TypeError, "target_layers is a int; expected modules, dotted names, globs or types"),
        ([4], TypeError, "target layer is a int; expected a module, a dotted name, a glob or a type of modules"),
        ([], ValueError, "target_layers is empty"),
        ("layer5.*", ValueError, r"target layer 'layer5\.\*' matches no layer of the model; did you mean layer4"),
        (nn.Conv3d, ValueError, "the model has no layer of type Conv3d; did you mean Conv2d"),
        (
            nn.LSTM,
            ValueError,
            "the model has no layer of type LSTM; known: Conv2d, BatchNorm2d, ReLU, MaxPool2d, Sequent",
        ),
        (int, TypeError, "target layer is the type int; expected a module, a dotted name, a glob or a type of modules"),
    ],
)
def test_wrong_layers_are_named(layers, error, message):
    model = torchvision.models.resnet18()
    if error is None:
        assert resolve_layers(model, layers) == {"": model}
    else:
        with pytest.raises(error, match=message):
            camfast.GradCAM(model, layers)


def test_a_layer_that_does_not_run_is_named():
    model = PooledNet()
    model.spare = nn.Conv2d(3, 3, 3)
    for method in (camfast.GradCAM, camfast.CAM):
        with pytest.raises(ValueError, match="target layer 'spare' did not run in the forward pass"):
            method(model, "spare")(torch.randn(1, 3, 16, 16))


def test_a_layer_that_puts_out_no_tensor_is_named():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pair = nn.Conv2d(3, 4, 3), Pair()

        def forward(self, x):
            return self.pair(self.conv(x))[0].mean((2, 3))

    with pytest.raises(
        TypeError, match="layer 'pair' puts out a tuple; choose a layer that puts out one floating tensor"
    ):
        camfast.GradCAM(Model(), "pair")(torch.randn(1, 3, 8, 8))
