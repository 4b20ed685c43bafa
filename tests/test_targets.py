"""What is explained: every form of targets, and every wrong one."""

import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet, Wrapped

import camfast


class TestTargets:
    model = PooledNet().eval()
    x = torch.randn(3, 3, 16, 16)

    def test_all_forms_agree(self):
        cam = camfast.GradCAM(self.model)
        expected = cam.explain(self.x, [1, 1, 1])
        assert expected.targets.tolist() == [1, 1, 1]
        for targets in (1, torch.tensor([1, 1, 1]), (1, 1, 1), torch.tensor(1), torch.tensor([1] * 3).numpy()):
            assert cam(self.x, targets).equal(expected.heatmaps)
        for targets in (lambda output: output[1], [lambda output: output[1:2]] * 3):
            explained = cam.explain(self.x, targets)
            assert explained.heatmaps.equal(expected.heatmaps)
            assert explained.targets is None

    def test_none_is_the_predicted_class(self):
        explained = camfast.GradCAM(self.model).explain(self.x)
        assert explained.targets.equal(self.model(self.x).argmax(1))
        assert explained.logits.equal(self.model(self.x))
        assert not explained.logits.requires_grad

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            ([1, 2], "targets has 2 entries for a batch of 3; expected one per sample"),
            ([1, 2, 3, 4], "targets has 4 entries for a batch of 3"),
            ([], "targets has 0 entries for a batch of 3"),
            (5, r"targets has class 5; expected 0 to 4, as the model has 5 classes"),
            ([0, 7, 0], "targets has class 7; expected 0 to 4"),
            (-1, "targets=-1 is out of range"),
            ([0, 0, -3], r"targets\[2\]=-3 is out of range"),
            (torch.tensor([0, 0, -3]), "targets has class -3"),
            (1.5, "targets=1.5 is a float; expected None, a class"),
            ([1.0, 0, 0], r"targets\[0\]=1.0 is a float"),
            (True, "targets=True is a bool"),
            ("cat", "targets='cat' is a str"),
            (2**70, "out of range"),
            (torch.tensor([1.0, 2.0, 3.0]), "targets has dtype torch.float32; expected whole numbers"),
            (
                torch.zeros(3, 1, 1, dtype=torch.int64),
                r"targets has shape \[3, 1, 1\]; expected \[N\] = \[3\], or \[N, K\]",
            ),
            (torch.zeros(3, 0, dtype=torch.int64), r"targets has shape \[3, 0\]"),
            (torch.zeros(2, 4, dtype=torch.int64), "targets has 2 entries for a batch of 3"),
            ([[1, 2], [3, 4], [5]], r"targets\[2\] has 1 classes and targets\[0\] has 2"),
            ([[1, 2], 3, [4, 5]], r"targets\[1\]=3 is one class where others are lists"),
            ([[], [], []], r"targets\[0\] has no classes"),
            ([[1, 2], [3, 0.5], [4, 5]], r"targets\[1\]\[1\]=0.5 is a float"),
            ([[1, 2], [3, 9], [4, 5]], "targets has class 9; expected 0 to 4"),
            (camfast.TopK(6), r"targets is TopK\(6\), but the model has 5 classes"),
            (torch.tensor([1, 2]), "targets has 2 entries for a batch of 3"),
            (lambda output: output, r"targets\[0\] returned \[5\]; expected a scalar"),
            (lambda output: 1.0, r"targets\[0\] returned float; expected a scalar"),
            ([lambda output: output[0], 1, 2], "targets mixes callables and classes"),
        ],
    )
    def test_wrong_ones_are_named(self, targets, message):
        before = fingerprint(self.model)
        with pytest.raises(ValueError, match=message):
            camfast.GradCAM(self.model)(self.x, targets)
        assert_same(before, fingerprint(self.model))

    def test_classes_need_a_matrix_of_logits(self):
        model = Wrapped(self.model, lambda output: output.mean(1)).eval()
        with pytest.raises(
            ValueError, match=r"output has shape \[3\]; expected \[N, classes\]. Give targets as callables"
        ):
            camfast.GradCAM(model, "inner.conv")(self.x, 0)
        assert camfast.GradCAM(model, "inner.conv")(self.x, lambda output: output).shape == (3, 16, 16)

    def test_a_score_without_the_layer_is_named(self):
        with pytest.raises(ValueError, match="the score does not depend on layer 'conv': no gradient"):
            camfast.GradCAM(self.model, "conv")(self.x, lambda output: torch.ones((), requires_grad=True))
        with pytest.raises(ValueError, match="the score does not depend on layer 'conv'"):
            camfast.GradCAM(self.model, "conv")(self.x, lambda output: output.detach()[0])
