"""Detectors, with random weights: their output is a list with an entry a sample, and boxes are explained."""

import pytest
import torch
import torchvision
from fingerprint import assert_same, fingerprint
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam.utils import model_targets as peer
from torch import nn

import camfast
from camfast.dense_scores import BoxTarget


@pytest.fixture(scope="module")
def detector():
    """Every box is kept that is found, so that there are some."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0.0, box_detections_per_img=6
    )
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)  # else gradients are next to nothing
    return model.eval()


def sum_of_scores(output):
    return output["scores"].sum()


class TestDetection:
    x = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(3))

    def test_the_output_is_a_list_with_an_entry_a_sample(self, detector):
        before = fingerprint(detector)
        cam = camfast.GradCAM(detector)
        explained = cam.explain(self.x, sum_of_scores)
        assert cam.target_layers == ["backbone.body.16"]
        assert explained.heatmaps.shape == (2, 96, 128)
        assert explained.heatmaps.amax((1, 2)).tolist() == [1, 1]
        assert explained.targets is None
        with torch.no_grad():
            expected = detector(list(self.x))
        assert len(explained.logits) == 2
        for got, wanted in zip(explained.logits, expected, strict=True):
            assert got.keys() == wanted.keys()
            assert not got["boxes"].requires_grad
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        assert repr(explained) == "Explanation(2 heatmaps of 96×128 on cpu, targets: callables)"
        assert_same(before, fingerprint(detector))

    def test_has_no_second_derivative(self, detector):
        with pytest.raises(RuntimeError, match=r"differentiated twice \(double backward.*\); choose .*, or GradCAM"):
            camfast.ShapleyCAM(detector)(self.x, sum_of_scores)

    def test_parts_of_an_explanation(self, detector):
        cam = camfast.GradCAM(detector)
        whole = cam.explain(self.x, sum_of_scores)
        first, second = whole.part(0, 1), whole.part(1, 2)
        assert len(first.logits) == 1
        assert second.logits[0] is whole.logits[1]
        joined = camfast.Explanation.joined([first, second])
        assert joined.heatmaps.equal(whole.heatmaps)
        assert [entry["scores"].tolist() for entry in joined.logits] == [o["scores"].tolist() for o in whole.logits]
        halves = whole.map(torch.Tensor.half)
        assert halves.logits[0]["scores"].dtype == halves.heatmaps.dtype == torch.float16
        assert halves.logits[0]["labels"].dtype == torch.int64
        assert len(cam.explain(self.x[:0], sum_of_scores)) == 0
        frames = list(cam.stream(self.x, 2, sum_of_scores))
        torch.testing.assert_close(frames[1].heatmaps, whole.heatmaps[1:], rtol=0, atol=1e-4)

    def test_boxes_as_pytorch_grad_cam(self, detector):
        with torch.no_grad():
            found = detector(self.x)
        ours = [BoxTarget(output["labels"][:2], output["boxes"][:2]) for output in found]
        theirs = [peer.FasterRCNNBoxScoreTarget(output["labels"][:2], output["boxes"][:2]) for output in found]
        layer = "backbone.body.16"
        with PeerGradCAM(detector, [detector.get_submodule(layer)]) as them:
            expected = torch.from_numpy(them(self.x.clone(), theirs))
        got = camfast.GradCAM(detector, layer)(self.x, ours)
        assert got.amax() == 1
        assert (got - expected).abs().max() <= 1e-4

    def test_nothing_that_matches_is_an_empty_map_and_a_warning(self, detector):
        with torch.no_grad():
            found = detector(self.x)
        here = BoxTarget(found[1]["labels"][:1], found[1]["boxes"][:1])
        nowhere = BoxTarget([4], [[0.0, 0.0, 0.1, 0.1]])
        with pytest.warns(RuntimeWarning, match=r"no detection of labels \[4\] overlaps its box by more than 0.5"):
            explained = camfast.GradCAM(detector).explain(self.x, [nowhere, here])
        assert explained.ranges[0].tolist() == [0, 0]
        assert explained.heatmaps[1].amax() == 1

    def test_a_layer_that_puts_out_maps_by_name(self, detector):
        def levels(output):
            size = output["0"].shape[2:]
            return torch.cat([nn.functional.interpolate(level, size) for level in output.values()], 1)

        explained = camfast.GradCAM(detector, "backbone", levels).explain(self.x, sum_of_scores)
        assert explained.heatmaps.shape == (2, 96, 128)
        assert explained.heatmaps.amax((1, 2)).tolist() == [1, 1]
        with pytest.raises(
            TypeError, match="layer 'backbone' puts out a OrderedDict; .* give a reshape_transform that"
        ):
            camfast.GradCAM(detector, "backbone")(self.x, sum_of_scores)

    def test_copies_are_left_out_with_a_note(self, detector):
        for options in ({"optimize": "inference"}, {"precision": "bf16"}):
            cam = camfast.GradCAM(detector, **options)
            assert cam(self.x, sum_of_scores).amax() == 1
            assert cam.plan.notes == ("no copy: the model, or a layer, puts out something else than one tensor",)

    @pytest.mark.parametrize("targets", [None, 1, camfast.TopK(2)])
    def test_classes_of_a_list_are_refused(self, detector, targets):
        before = fingerprint(detector)
        with pytest.raises(ValueError, match="returns a list of 2, one entry a sample, .* give targets as callables"):
            camfast.GradCAM(detector)(self.x, targets)
        assert_same(before, fingerprint(detector))
