"""A model that takes no time, for tests in which it does not matter what it thinks."""

import torch
from nets import PooledNet

from camfast.models import LoadedModel
from camfast.preprocess import Preprocessing
from camfast.video import annotate_video


def small_model() -> LoadedModel:
    torch.manual_seed(0)
    preprocess = Preprocessing(40, 32, (0.5,) * 3, (0.5,) * 3)
    return LoadedModel("small", "random", PooledNet().eval(), preprocess, list("abcde"))


def annotate(source, output, model, **options):
    """Without smoothing, so that every frame can be looked at by itself."""
    return annotate_video(source, output, model, quiet=True, **{"smooth": 0, **options})
