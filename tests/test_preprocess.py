"""What the model sees, and where that lies in the frame."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights

from camfast.models import load_model
from camfast.placement import Region
from camfast.preprocess import Preprocessing

PLAIN = Preprocessing(256, 224, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("height", "width", "region"),
    [
        (256, 256, Region(16, 16, 224, 224)),
        (512, 512, Region(32, 32, 448, 448)),
        (256, 512, Region(16, 144, 224, 224)),
        (720, 1280, Region(45, 326, 630, 630)),
        (1280, 720, Region(326, 45, 630, 630)),
        (300, 451, Region(19, 94, 262, 263)),
        (1, 1, Region(0, 0, 1, 1)),
    ],
)
def test_the_crop_lies_in_the_middle(height, width, region):
    assert PLAIN.seen(height, width) == region
    squash = Preprocessing(256, 224, (0.0,) * 3, (1.0,) * 3, fit="squash")
    assert squash.seen(height, width) == (0, 0, height, width)


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (300, 451), (90, 33), (224, 224), (1, 7), (500, 64)])
def test_the_region_lies_in_the_frame_and_shows_what_the_model_sees(height, width):
    region = PLAIN.seen(height, width)
    assert 0 <= region.top <= region.top + region.height <= height
    assert 0 <= region.left <= region.left + region.width <= width
    # A frame whose red and green grow with row and column: the input's corners tell where it was taken from.
    rows = torch.linspace(0, 255, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 255, width).expand(height, width)
    frame = torch.stack([rows, columns, rows], -1).round().to(torch.uint8)
    x = PLAIN(frame[None])[0]
    assert x.shape == (3, 224, 224)
    if min(height, width) > 60:
        seen = frame[region.top : region.top + region.height, region.left : region.left + region.width].float() / 255
        assert abs(x[0, 0].mean() - seen[0, :, 0].mean()) < 0.02
        assert abs(x[0, -1].mean() - seen[-1, :, 0].mean()) < 0.02
        assert abs(x[1, :, 0].mean() - seen[:, 0, 1].mean()) < 0.02
        assert abs(x[1, :, -1].mean() - seen[:, -1, 1].mean()) < 0.02


def test_equals_torchvisions_own(cat):
    ours = load_model("resnet50", "random").preprocess
    theirs = ResNet50_Weights.DEFAULT.transforms()
    expected = theirs(torch.from_numpy(cat).permute(2, 0, 1))
    difference = (ours(torch.from_numpy(cat)[None])[0] - expected).abs()
    one_level = 1 / 255 / min(theirs.std)  # PyTorch's resize rounds differently in different memory layouts
    assert difference.max() <= one_level + 1e-5
    assert difference.mean() < one_level / 4
    portrait = np.ascontiguousarray(cat.transpose(1, 0, 2))
    expected = theirs(Image.fromarray(portrait))  # through Pillow, which rounds on the way
    assert (ours(torch.from_numpy(portrait)[None])[0] - expected).abs().max() < 0.05


@pytest.mark.parametrize(("height", "width"), [(1, 60000), (60000, 1), (3, 30000)])
def test_very_long_frames_take_no_memory_and_show_their_middle(height, width):
    frame = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    region = PLAIN.seen(height, width)
    middle = frame[0, region.top : region.top + region.height, region.left : region.left + region.width]
    middle.fill_(200)
    assert abs(region.left + region.width / 2 - width / 2) <= 2
    assert abs(region.top + region.height / 2 - height / 2) <= 2
    assert PLAIN(frame).amax() > 0.7  # of 0.78; a region of one pixel is rounded by half of it


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="fit='stretch' is unknown; expected one of 'crop', 'squash'"):
        Preprocessing(256, 224, (0.0,) * 3, (1.0,) * 3, fit="stretch")
    with pytest.raises(ValueError, match="crop=300 is larger than resize=256"):
        Preprocessing(256, 300, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (torch.zeros(1, 8, 8, 3), TypeError, "frames is a torch.float32 tensor; expected a uint8 tensor"),
        ("cat.jpg", TypeError, r"frames is a str; expected a uint8 tensor \[N, H, W, 3\]"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), ValueError, r"\[8, 8, 3\]; .*add the batch dimension"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ValueError, r"frames has shape \[1, 3, 8, 8\]; expected"),
    ],
)
def test_frames_that_are_none(frames, error, message):
    with pytest.raises(error, match=message):
        PLAIN(frames)
