"""What a notebook shows of an explanation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import camfast


def explanation(heatmaps, targets=None, ranges=None):
    shape = heatmaps.shape[: 1 if targets is None else targets.dim()]
    ranges = torch.tensor([0.0, 1.0]).expand(*shape, 2) if ranges is None else ranges
    return camfast.Explanation(heatmaps, torch.zeros(len(heatmaps), 5), targets, ranges)


def picture(result):
    return np.asarray(Image.open(io.BytesIO(result._repr_png_())).convert("RGB")).astype(int)


def colored(pixels):
    """Where there is heat, in the colours of jet."""
    return np.ptp(pixels, axis=2) > 60


def test_heatmaps_are_seen():
    maps = torch.zeros(1, 200, 200)
    maps[0, :, 100:] = 1  # from dark blue to dark red
    pixels = picture(explanation(maps, torch.tensor([2])))
    columns = np.flatnonzero(colored(pixels).any(0))
    middle = pixels[pixels.shape[0] // 2]
    assert middle[columns[3]].tolist() == pytest.approx([0, 0, 127], abs=1)
    assert middle[columns[-3]].tolist() == pytest.approx([127, 0, 0], abs=1)


def test_large_batches_are_cut():
    sizes = {}
    for samples in (1, 12, 13, 5000):
        result = explanation(torch.rand(samples, 8, 8), torch.zeros(samples, dtype=torch.long))
        sizes[samples] = len(result._repr_png_())
    assert sizes[1] < sizes[12]
    assert abs(sizes[5000] - sizes[12]) < 5000  # the line that says so
    assert picture(explanation(torch.rand(5000, 8, 8), torch.zeros(5000, dtype=torch.long))).shape[1] < 800


def test_several_classes_a_sample_stand_in_a_row():
    pixels = picture(explanation(torch.ones(2, 3, 8, 8), torch.tensor([[0, 1, 2]] * 2)))
    red = (pixels[..., 0] > 100) & (pixels[..., 1] < 20) & (pixels[..., 2] < 20)
    starts = lambda line: int((np.diff(line.astype(int)) == 1).sum())  # noqa: E731
    assert starts(red.any(0)) == 3
    assert starts(red.any(1)) == 2


def test_other_forms():
    volume = torch.rand(1, 3, 8, 8)
    middle = explanation(volume[:, 1], torch.tensor([0]))
    assert np.array_equal(picture(explanation(volume, torch.tensor([0]))), picture(middle))
    assert explanation(torch.rand(0, 8, 8))._repr_png_() is None
    raw = explanation(torch.tensor([[[-3.0, 5.0]]]), ranges=torch.tensor([[-3.0, 5.0]]))
    assert colored(picture(raw)).any()
    broken = explanation(torch.zeros(1, 4, 4), torch.tensor([0]), torch.full((1, 2), torch.nan))
    assert not np.array_equal(picture(broken), picture(explanation(torch.zeros(1, 4, 4), torch.tensor([0]))))


def test_of_a_real_explanation(small):
    x = torch.rand(2, 3, small.preprocess.crop, small.preprocess.crop)
    assert picture(camfast.GradCAM(small.module).explain(x)).shape[2] == 3
