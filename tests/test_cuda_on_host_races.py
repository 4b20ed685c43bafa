"""Every barrier of the CUDA kernels is needed: without any one of them a race is seen on the host."""

import pytest
import torch
from host_kernels import SanitizerError, count_barriers, frames_in, laid_out, run_cam, run_overlay


def test_the_sources_have_the_barriers_that_are_tested(programs):
    assert len(programs.barriers) == count_barriers() == len(set(programs.barriers))


def race_attempts(programs):
    """Launches that between them need every barrier. Each takes the number of the barrier to do without."""
    activations, gradients = torch.randn(1, 1100, 6, 7), torch.randn(1, 1100, 6, 7)
    small = activations[:, :70].contiguous(), gradients[:, :70].contiguous()
    channels_last = [laid_out(t[:, :20], "channels_last") for t in small]
    wide = torch.randn(1, 6, 8, 12), torch.randn(1, 6, 8, 12)
    cam, overlay = programs["cam", "races"], programs["overlay", "races"]
    yield lambda lost: run_cam(cam, *small, size=(70, 140), threads=32, cluster=2, lost=lost)
    yield lambda lost: run_cam(cam, *channels_last, size=(6, 6), threads=64, rule="gradcam++", lost=lost)
    yield lambda lost: run_cam(cam, activations, gradients, size=(6, 6), threads=64, lost=lost)
    yield lambda lost: run_cam(cam, *wide, size=(8, 12), threads=32, rule="layercam", lost=lost)
    yield lambda lost: run_cam(cam, *wide, size=(2, 2), threads=32, cluster=2, lost=lost)
    frames, maps = frames_in("packed", 1, 6, 24), torch.rand(1, 9, 9)
    colors = torch.zeros(256, 3, dtype=torch.uint8)
    options = dict(frame=(6, 24), region=(0, 0, 6, 24), alpha=1, normalize=True, shares=1, threads=64)
    yield lambda lost: run_overlay(overlay, "rgb", frames.unbind(-1), maps, colors, lost=lost, **options)


def test_without_a_loss_no_barrier_is_missing(programs):
    for attempt in race_attempts(programs):
        attempt(None)


@pytest.mark.parametrize("lost", range(count_barriers()))
def test_every_barrier_is_needed_and_its_loss_is_seen(programs, lost):
    # Whether a race is seen depends on how the threads happen to run, which is seldom twice the same.
    attempts = (attempt for _ in range(8) for attempt in race_attempts(programs))
    assert any(is_seen(attempt, lost) for attempt in attempts), programs.barriers[lost]


def is_seen(attempt, lost):
    try:
        attempt(lost)
    except SanitizerError:  # a race, or garbage that was taken for an index
        return True
    return False
