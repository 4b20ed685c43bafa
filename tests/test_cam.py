"""CAM: by hand, and what it refuses."""

import pytest
import torch
from nets import CifarNet, PooledNet

import camfast
from camfast import ops


class TestCAM:
    def test_by_hand(self):
        model, x = PooledNet().eval(), torch.randn(3, 3, 16, 16)
        with camfast.capture(model, "act2") as seen, torch.no_grad():
            model(x)
        weights = model.head.weight[torch.tensor([0, 4, 2])].detach()
        expected = ops.cam(seen.activations["act2"], weights=weights, size=(16, 16), relu=False)
        explained = camfast.CAM(model).explain(x, [0, 4, 2])
        assert explained.heatmaps.equal(expected[0])
        assert explained.ranges.equal(expected[1])
        assert (explained.ranges[:, 0] < 0).any()  # negative evidence is kept

    def test_the_form_is_checked_in_every_call_and_over_what_is_finite(self):
        class MaxPooled(PooledNet):
            def forward(self, x):
                return self.head(self.act2(self.conv(self.act(self.norm(self.stem(x))))).amax((2, 3)))

        model = MaxPooled().eval()
        torch.nn.init.zeros_(model.conv.weight)  # a map without shape, of which mean and maximum are the same
        cam, x = camfast.CAM(model, "act2"), torch.randn(1, 3, 16, 16)
        cam(x)
        torch.nn.init.normal_(model.conv.weight)
        with pytest.raises(ValueError, match="is not global average pooling"):
            cam(x)

        x = torch.randn(3, 3, 16, 16)
        x[0] = float("nan")
        explained = camfast.CAM(PooledNet().eval()).explain(x, 1)
        assert explained.ranges[0].isnan().all()
        assert explained.heatmaps[1:].amax() == 1

    def test_other_forms_are_refused(self):
        x = torch.randn(1, 3, 32, 32)
        with pytest.raises(
            ValueError, match="CifarNet is not global average pooling and one linear layer after 'conv3'"
        ):
            camfast.CAM(CifarNet(), "conv3")(x)
        with pytest.raises(ValueError, match="one linear layer after 'conv'"):
            camfast.CAM(PooledNet(), "conv")(x)  # a ReLU lies between
        with pytest.raises(ValueError, match="one linear layer after 'conv'"):
            camfast.CAM(PooledNet(inplace=True), "conv")(x)  # which must not reach what the convolution put out
        with pytest.raises(ValueError, match="CAM explains one target layer, 2 were given"):
            camfast.CAM(PooledNet(), ["conv", "act2"])
        with pytest.raises(ValueError, match="targets are callables, for which CAM has no weights"):
            camfast.CAM(PooledNet())(x, lambda output: output[0])
