"""Targets beside a class: what they make of an output, that they are explained, and every wrong argument."""

import math

import numpy as np
import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet, Wrapped
from torch import nn

import camfast
from camfast.dense_scores import BoxTarget, SegmentationTarget
from camfast.scores import (
    BinaryTarget,
    ContrastTarget,
    DifferenceTarget,
    LogitTarget,
    MultiLabelTarget,
    RawTarget,
    ReSTTarget,
    SimilarityTarget,
    SoftmaxTarget,
)

LOGITS = torch.tensor([1.0, 3.0, 2.0]).log()  # probabilities 1/6, 1/2, 1/3
MASK = torch.tensor([[1, 0], [1, 1]], dtype=torch.bool)


class TestValues:
    @pytest.mark.parametrize(
        ("target", "output", "expected"),
        [
            (LogitTarget(1), LOGITS, math.log(3)),
            (SoftmaxTarget(1), LOGITS, 0.5),
            (SoftmaxTarget(2, log=True), LOGITS, -math.log(3)),
            (ReSTTarget(1), LOGITS, math.log(3) - math.log(2)),
            (BinaryTarget(1), torch.tensor([0.25]), 0.25),
            (BinaryTarget(0), torch.tensor(0.25), -0.25),
            (RawTarget(), torch.tensor([[-2.5]]), -2.5),
            (MultiLabelTarget([0, 2]), torch.tensor([1.0, 2.0, 4.0]), 5),
            (MultiLabelTarget([0, 2], signs=[-1, 1]), torch.tensor([1.0, 2.0, 4.0]), 3),
            (MultiLabelTarget([0, 1, 2], signs=[1, 1, -1], mean=True), torch.tensor([1.0, 2.0, 9.0]), -2),
            (ContrastTarget(1, [0, 2], alpha=0.5), torch.tensor([1.0, 2.0, 4.0]), 2 - 0.5 * 2.5),
            # Weights 1/6 and 1/3: (1/6 (log 3 - log 1) + 1/3 (log 3 - log 2)) / (1/2).
            (ContrastTarget(1, [0, 2], 1.0, "probability"), LOGITS, math.log(3) - 2 / 3 * math.log(2)),
            (SimilarityTarget(torch.tensor([3.0, 4.0])), torch.tensor([5.0, 0.0]), 0.6),
            (DifferenceTarget(torch.tensor([3.0, 4.0])), torch.tensor([5.0, 0.0]), 0.4),
            (SegmentationTarget(1), torch.arange(8.0).reshape(2, 2, 2), 4 + 5 + 6 + 7),
            (SegmentationTarget(1, MASK), torch.arange(8.0).reshape(2, 2, 2), 4 + 6 + 7),
            (SegmentationTarget(0, [[0, 0.5], [0, 2.0]]), torch.arange(8.0).reshape(2, 2, 2), 0.5 + 6),
        ],
    )
    def test_by_hand(self, target, output, expected):
        assert float(target(output)) == pytest.approx(expected, abs=1e-6)
        assert target(output).shape == ()
        batch = target.of_batch(torch.stack([output, output]))
        assert batch.tolist() == pytest.approx([expected, expected], abs=1e-6)

    def test_what_is_off_in_a_mask_does_not_count_even_if_infinite(self):
        output = torch.tensor([[[1.0, torch.inf], [2.0, 3.0]]])
        assert float(SegmentationTarget(0, MASK)(output)) == 6

    def test_half_precision_is_summed_in_float32(self):
        output = torch.ones(1, 64, 64, dtype=torch.float16) * 20
        assert float(SegmentationTarget(0)(output)) == 81920  # more than float16 holds

    def test_boxes_by_hand(self):
        output = {
            "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [20, 0, 30, 10]]),
            "labels": torch.tensor([1, 2, 1, 3]),
            "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
        }
        both = [[0, 0, 10, 10], [20, 0, 30, 10]]
        assert float(BoxTarget([1, 1], both)(output)) == pytest.approx(1 + 0.9 + 1 + 0.7)
        assert float(BoxTarget([2, 3], both)(output)) == pytest.approx(0.8 + 0.8 + 1 + 0.6)
        assert float(BoxTarget([2, 9], both)(output)) == pytest.approx(0.8 + 0.8)  # none of label 9
        assert float(BoxTarget([2], both[:1], 0.79)(output)) == pytest.approx(1.6)
        with pytest.warns(RuntimeWarning, match=r"no detection of labels \[2\] overlaps its box by more than 0.81"):
            assert float(BoxTarget(np.array([2]), np.array(both[:1]), 0.81)(output)) == 0

    def test_boxes_stay_in_the_graph(self):
        boxes = torch.tensor([[1.0, 2, 9, 8]], requires_grad=True)  # 8 × 6 of the 100 pixels that it lies in
        scores = torch.tensor([0.5], requires_grad=True)
        output = {"boxes": boxes * 1, "labels": torch.tensor([1]), "scores": scores * 1}
        BoxTarget([1], [[0, 0, 10, 10]], 0.4)(output).backward()
        assert scores.grad.tolist() == [1]
        assert boxes.grad[0].tolist() == pytest.approx([-0.06, -0.08, 0.06, 0.08])
        with pytest.warns(RuntimeWarning, match="the heatmap is empty"):
            nothing = BoxTarget([2], [[0, 0, 10, 10]])(output)
        assert nothing.requires_grad


class TestExplained:
    model = PooledNet().eval()
    x = torch.randn(3, 3, 16, 16)

    def test_a_logit_is_a_class(self):
        cam = camfast.GradCAM(self.model, "act2")
        expected = cam.explain(self.x, [1, 2, 0])
        got = cam.explain(self.x, [LogitTarget(1), LogitTarget(2), LogitTarget(0)])
        assert got.heatmaps.equal(expected.heatmaps)
        assert got.targets.equal(expected.targets)
        assert cam.explain(self.x, LogitTarget(np.int64(2))).targets.tolist() == [2, 2, 2]
        assert camfast.CAM(self.model, "act2")(self.x, LogitTarget(1)).equal(camfast.CAM(self.model, "act2")(self.x, 1))
        mixed = [LogitTarget(1), SoftmaxTarget(2), LogitTarget(0)]
        torch.testing.assert_close(cam(self.x, mixed)[0], expected.heatmaps[0], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("layer", ["act2", "stem"])
    @pytest.mark.parametrize(
        ("target", "score"),
        [
            (SoftmaxTarget(1), lambda output: output.softmax(0)[1]),
            (SoftmaxTarget(1, log=True), lambda output: output.log_softmax(0)[1]),
            (ReSTTarget(1), lambda output: output[1] + output.log_softmax(0)[1]),
            (MultiLabelTarget([1, 3], [1, -1]), lambda output: output[1] - output[3]),
            (ContrastTarget(1, [3, 4], 0.5), lambda output: output[1] - 0.25 * (output[3] + output[4])),
            (
                SimilarityTarget(torch.arange(1.0, 6)),
                lambda output: output @ torch.arange(1.0, 6) / output.norm() / torch.arange(1.0, 6).norm(),
            ),
            (
                DifferenceTarget(torch.arange(1.0, 6)),
                lambda output: -(output @ torch.arange(1.0, 6)) / output.norm(),
            ),
        ],
    )
    def test_one_for_all_and_one_each_are_the_score_written_out(self, target, score, layer):
        cam = camfast.GradCAM(self.model, layer)
        expected = cam(self.x, score)
        torch.testing.assert_close(cam(self.x, target), expected, rtol=0, atol=1e-5)
        each = cam(self.x, [target, lambda output: output[0], target])
        torch.testing.assert_close(each[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-5)

    def test_a_sample_that_is_not_finite_touches_no_other(self):
        cam, x = camfast.GradCAM(self.model, "stem"), self.x.clone()
        expected = cam(x, SoftmaxTarget(1))
        x[0, 0, 0, 0] = torch.nan
        explained = cam.explain(x, SoftmaxTarget(1))
        assert explained.ranges[0].isnan().all()
        torch.testing.assert_close(explained.heatmaps[1:], expected[1:], rtol=0, atol=1e-6)

    def test_of_models_with_one_number_a_sample(self):
        for last in (lambda t: t[:, 0], lambda t: t[:, :1]):
            model = Wrapped(self.model, last).eval()
            cam = camfast.GradCAM(model, "inner.act2")
            expected = camfast.GradCAM(self.model, "act2")(self.x, 0)
            against = camfast.GradCAM(self.model, "act2")(self.x, lambda output: -output[0])
            for target, wanted in ((RawTarget(), expected), (BinaryTarget(1), expected), (BinaryTarget(0), against)):
                torch.testing.assert_close(cam(self.x, target), wanted, rtol=0, atol=1e-5)

    def test_of_a_segmentation_model(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 1)).eval()
        mask = torch.zeros(16, 16)
        mask[2:6, 3:9] = 1
        got = camfast.GradCAM(model, "1")(self.x, SegmentationTarget(1, mask))
        expected = camfast.GradCAM(model, "1")(self.x, lambda output: output[1, 2:6, 3:9].sum())
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)

    def test_in_a_stream_and_in_halves(self):
        cam = camfast.GradCAM(self.model)
        frames = list(cam.stream(self.x, batch_size=2, targets=SoftmaxTarget(1)))
        expected = cam(self.x, SoftmaxTarget(1))
        torch.testing.assert_close(torch.cat([f.heatmaps for f in frames]), expected, rtol=0, atol=1e-5)


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: LogitTarget(-1), "category=-1 of LogitTarget; expected a class index of at least 0"),
            (lambda: SoftmaxTarget(1.5), "category=1.5 of SoftmaxTarget"),
            (lambda: ReSTTarget(True), "category=True of ReSTTarget"),
            (lambda: BinaryTarget(2), "category=2 of BinaryTarget; expected 0 or 1"),
            (lambda: MultiLabelTarget(3), "categories=3 of MultiLabelTarget; expected a sequence"),
            (lambda: MultiLabelTarget([]), "categories of MultiLabelTarget is empty"),
            (lambda: MultiLabelTarget([1, "a"]), r"categories\[1\]='a' of MultiLabelTarget"),
            (
                lambda: MultiLabelTarget([1, 2], [1]),
                r"signs=\[1\] of MultiLabelTarget; expected 1 or -1 for each of the 2",
            ),
            (lambda: MultiLabelTarget([1], [0.5]), r"signs=\[0.5\] of MultiLabelTarget"),
            (lambda: ContrastTarget(1, [1, 2]), r"others=\(1, 2\) of ContrastTarget has category 1 itself"),
            (lambda: ContrastTarget(1, [2], alpha=-1), "alpha=-1 of ContrastTarget"),
            (lambda: ContrastTarget(1, [2], alpha=math.nan), "alpha=nan of ContrastTarget"),
            (lambda: ContrastTarget(1, [2], weighting="max"), "weighting='max' of ContrastTarget; expected 'mean' or"),
            (
                lambda: SimilarityTarget(torch.zeros(4)),
                r"reference of SimilarityTarget has shape \[4\]; expected an embedd",
            ),
            (lambda: DifferenceTarget(torch.ones(2, 2)), r"reference of DifferenceTarget has shape \[2, 2\]"),
            (
                lambda: SegmentationTarget(1, torch.zeros(4, 4)),
                r"mask of SegmentationTarget has shape \[4, 4\]; expected fin",
            ),
            (lambda: SegmentationTarget(1, torch.ones(4)), r"mask of SegmentationTarget has shape \[4\]"),
            (lambda: BoxTarget([], []), r"boxes of BoxTarget have shape \[0\] and labels \[0\]; expected \[K, 4\]"),
            (lambda: BoxTarget([1], [[0, 0, 1]]), r"boxes of BoxTarget have shape \[1, 3\]"),
            (lambda: BoxTarget([1], [[5, 0, 1, 9]]), "x1 less than x2"),
            (lambda: BoxTarget([1.5], [[0, 0, 1, 9]]), r"labels\[0\]=1.5 of BoxTarget"),
            (lambda: BoxTarget([1], [[0, 0, 1, 9]], 1.0), "iou_threshold=1.0 of BoxTarget; expected 0 to less than 1"),
        ],
    )
    def test_are_named_at_once(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (LogitTarget(5), "targets has class 5; expected 0 to 4"),
            (SoftmaxTarget(9), "has class 9; expected 0 to 4, as the model has them"),
            (ContrastTarget(1, [7]), "has class 7; expected 0 to 4"),
            (RawTarget(), r"RawTarget\(\) is about one number a sample, and the model's output for one is \[5\]"),
            (BinaryTarget(1), "is about one number a sample"),
            (
                SimilarityTarget(torch.ones(4)),
                "reference of SimilarityTarget has 4 numbers, and the model's output has 5",
            ),
            (
                SegmentationTarget(1),
                r"is about logits \[classes, H, W\] of a sample with a class 1, .* for one is \[5\]",
            ),
            (
                BoxTarget([1], [[0, 0, 1, 1]]),
                "is about a dict of boxes, labels and scores .* is a Tensor; use it with a",
            ),
        ],
    )
    def test_that_the_model_does_not_fit_are_named(self, target, message):
        model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
        before = fingerprint(model)
        for targets in (target, [target, target]):
            with pytest.raises(ValueError, match=message):
                camfast.GradCAM(model)(x, targets)
        assert_same(before, fingerprint(model))

    def test_targets_and_outputs_that_do_not_fit_in_size(self):
        model, x = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)).eval(), torch.randn(2, 3, 8, 8)
        cam = camfast.GradCAM(model, "0")
        with pytest.raises(
            ValueError, match=r"mask of SegmentationTarget has shape \[4, 4\], .* is \[8, 8\] large; resize"
        ):
            cam(x, SegmentationTarget(1, torch.ones(4, 4)))
        with pytest.raises(ValueError, match="with a class 2"):
            cam(x, SegmentationTarget(2))
        with pytest.raises(ValueError, match=r"SoftmaxTarget\(category=1, log=False\) is about the logits \[classes\]"):
            cam(x, SoftmaxTarget(1))
