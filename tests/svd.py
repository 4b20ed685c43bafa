"""What first components are held to: the decomposition in float64, and pytorch-grad-cam's maps with camfast's sign."""

from unittest import mock

import numpy as np
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


def svd64(maps):
    """The definition: centred, decomposed, and turned; [M, positions] of [M, C, *positions]."""
    rows = maps.double().flatten(2)
    rows = rows - rows.mean(2, keepdim=True)
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    scores = values[:, :1] * right[:, 0]
    largest = scores.abs().argmax(1, keepdim=True)
    return scores * scores.gather(1, largest).sign()


def peer_maps(peer, model, layers, x, targets, eigen_smooth=False, turned=True, **options):
    """The heatmaps of a method of pytorch-grad-cam, at the size of ``x``; each projection is turned around where its
    value of largest magnitude is negative, before its negative part is cut off, but for methods that have no such
    sign (``turned=False``).
    """

    class Turned(peer):
        def get_cam_image(self, *args):
            maps = super().get_cam_image(*args)
            negative = np.abs(maps.min((1, 2))) > np.abs(maps.max((1, 2)))
            return np.where(turned & negative[:, None, None], -maps, maps)

    def thin(matrix, full_matrices):
        return svd(matrix, full_matrices=False)  # of the other vectors, which take seconds, nothing is used

    svd = np.linalg.svd
    modules = [model.get_submodule(name) for name in layers]
    with mock.patch.object(np.linalg, "svd", thin), Turned(model, modules, **options) as cam:
        found = cam(x.clone(), [ClassifierOutputTarget(t) for t in targets], eigen_smooth=eigen_smooth)
    model.zero_grad(set_to_none=True)
    return torch.from_numpy(found)


def assert_near(ours, theirs, tolerance=1e-3):
    assert (ours - theirs).abs().max() <= tolerance
    for a, b in zip(ours, theirs, strict=True):
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.9999
