"""The same job, a video in and an explained video out, by camfast and by loops around the peers as their documentation
shows them; and the parts of it alone."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from engine_models import LAYERS, build

import camfast
from camfast.models import LoadedModel
from camfast.preprocess import Preprocessing
from camfast.video.encoding import Encoding
from camfast.video.planes import Canvas
from camfast.video.reader import Frame, VideoReader
from camfast.video.writer import Picture, VideoWriter

Job = Callable[[Path, Path], int]
"""Does its work from one file to another, and tells how many frames that were."""

MEAN, STD, SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
BATCH = 8
STRIDE = 4
MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "exact": {"optimize": "inference"},
    "bf16": {"optimize": "compile", "precision": "bf16"},
    "int8": {"optimize": "inference", "precision": "int8"},
}
STRIDED = f"bf16, stride {STRIDE}"
PARTS = ("decode", "encode", "transcode", "model exact", "model bf16", "model int8")
PEERS = ("grad-cam", "torchcam")
ALL = (*PARTS, *MODES, STRIDED, *PEERS)


def job(name: str, model_name: str) -> Job:
    """What a contender does; everything that is done once is done here."""
    if name in ("decode", "transcode"):
        return {"decode": _decode, "transcode": _transcode}[name]
    model = load(model_name)
    if name == "encode":
        return _encode(_camfast(model, camfast.GradCAM(model.module, LAYERS[model_name]), 1))
    if name in PEERS:
        return {"grad-cam": _grad_cam, "torchcam": _torchcam}[name](model.module, LAYERS[model_name])
    mode = name.removeprefix("model ").split(",")[0]
    cam = camfast.GradCAM(model.module, LAYERS[model_name], **MODES[mode])
    if name.startswith("model "):
        return _model_alone(model, cam)
    stride = STRIDE if name == STRIDED else 1
    return _camfast(model, cam, stride)


def load(name: str) -> LoadedModel:
    """A model of the engine's benchmark, with its preprocessing."""
    if name == "efficientnet_lite0":
        return camfast.load_model(name)
    module = build(name, torch.device("cpu")).module
    return LoadedModel(name, "random", module, Preprocessing(256, SIDE, MEAN, STD), None)


def _camfast(model: LoadedModel, cam: camfast.GradCAM, stride: int) -> Job:
    def run(source: Path, output: Path) -> int:
        return camfast.annotate_video(
            source, output, model, cam=cam, batch_size=BATCH, stride=stride, overwrite=True, quiet=True
        ).frames

    return run


def _model_alone(model: LoadedModel, cam: camfast.GradCAM) -> Job:
    """Batches of the same images, from the video, as many as it has frames."""
    batches: dict[Path, tuple[int, torch.Tensor]] = {}

    def run(source: Path, output: Path) -> int:
        if source not in batches:
            batches[source] = _decode(source, output), _first_images(model, source)
        frames, x = batches[source]
        count = -(-frames // BATCH)
        for _ in range(count):
            cam.explain(x, size="layer")
        return count * BATCH

    return run


def _first_images(model: LoadedModel, source: Path) -> torch.Tensor:
    with av.open(str(source)) as container:
        frames = itertools.islice(container.decode(video=0), BATCH)
        pixels = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in frames]
    return model.preprocess(torch.stack(pixels))


def _decode(source: Path, output: Path) -> int:
    with VideoReader(source) as reader:
        return sum(isinstance(frame, Frame) for frame in reader.frames())


def _encode(explain: Job) -> Job:
    """Explained frames that are in memory already: heat that moves is more work for an encoder than the video."""
    decoded: dict[Path, list[Frame]] = {}

    def run(source: Path, output: Path) -> int:
        if source not in decoded:
            explain(source, output)
            with VideoReader(output) as reader:
                decoded[source] = [frame for frame in reader.frames() if isinstance(frame, Frame)]
        with VideoReader(source) as reader:
            _write(decoded[source], reader, output)
        return len(decoded[source])

    return run


def _transcode(source: Path, output: Path) -> int:
    with VideoReader(source) as reader:
        return _write((frame for frame in reader.frames() if isinstance(frame, Frame)), reader, output)


def _write(frames: Any, reader: VideoReader, output: Path) -> int:
    count = 0
    iterator = iter(frames)
    first = next(iterator)
    picture = Picture(
        Canvas(first.picture), reader.width, reader.height, reader.rate, reader.time_base, None, None, None, None
    )
    with VideoWriter(output, picture) as writer:
        for frame in itertools.chain([first], iterator):
            writer.write(frame.picture, frame.pts, frame.duration)
            count += 1
        writer.finish()
    return count


@contextlib.contextmanager
def _encoder(source: Path, output: Path) -> Iterator[tuple[Any, Callable[[Any, av.VideoFrame], None]]]:
    """The decoded frames of a video, and what encodes RGB in the place of one: plain PyAV, camfast's settings."""
    with av.open(str(source)) as container, av.open(str(output), "w") as written:
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        stream = written.add_stream("libx264", rate=video.average_rate or Fraction(25), options=Encoding().options)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = video.time_base
        stream.codec_context.max_b_frames = 0
        stream.codec_context.thread_type = "AUTO"

        def encode(pixels: Any, frame: av.VideoFrame) -> None:
            made = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            made.pts, made.time_base = frame.pts, frame.time_base
            written.mux(stream.encode(made))

        yield container.decode(video), encode
        written.mux(stream.encode(None))


def _grad_cam(module: torch.nn.Module, layer: str) -> Job:
    import cv2
    import numpy as np
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import preprocess_image, show_cam_on_image

    cam = GradCAM(model=module, target_layers=[module.get_submodule(layer)])

    def run(source: Path, output: Path) -> int:
        count = 0
        with _encoder(source, output) as (frames, encode):
            for frame in frames:
                rgb = frame.to_ndarray(format="rgb24")
                small = np.float32(cv2.resize(rgb, (SIDE, SIDE))) / 255
                heatmap = cam(input_tensor=preprocess_image(small, mean=list(MEAN), std=list(STD)), targets=None)[0]
                heatmap = cv2.resize(heatmap, (frame.width, frame.height))
                encode(show_cam_on_image(np.float32(rgb) / 255, heatmap, use_rgb=True), frame)
                count += 1
        return count

    return run


def _torchcam(module: torch.nn.Module, layer: str) -> Job:
    import numpy as np
    from torchcam.methods import GradCAM
    from torchcam.utils import overlay_mask
    from torchvision.transforms.v2.functional import normalize, resize, to_pil_image

    extractor = GradCAM(module, layer)

    def run(source: Path, output: Path) -> int:
        count = 0
        with _encoder(source, output) as (frames, encode):
            for frame in frames:
                rgb = frame.to_ndarray(format="rgb24")
                image = torch.from_numpy(rgb).permute(2, 0, 1)
                x = normalize(resize(image, [SIDE, SIDE]) / 255.0, list(MEAN), list(STD))
                out = module(x.unsqueeze(0))
                maps = extractor(out.squeeze(0).argmax().item(), out)
                mask = to_pil_image(maps[0].squeeze(0), mode="F")
                encode(np.asarray(overlay_mask(to_pil_image(image), mask, alpha=0.5)), frame)
                count += 1
        return count

    return run
