"""Videos made for a test, with PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving_square(count: int, height: int, width: int) -> list[np.ndarray]:
    """A bright square that wanders over a gradient."""
    rows = np.linspace(0, 120, height, dtype=np.uint8)[:, None, None]
    columns = np.linspace(0, 120, width, dtype=np.uint8)[None, :, None]
    frames = []
    for i in range(count):
        frame = np.broadcast_to(rows + columns, (height, width, 3)).copy()
        top, left = (3 * i) % max(height - 16, 1), (5 * i) % max(width - 16, 1)
        frame[top : top + 16, left : left + 16] = (250, 40, 60)
        frames.append(frame)
    return frames


def write_clip(
    path: Path,
    frames: list[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction = Fraction(25),
    pts: list[int] | None = None,
    time_base: Fraction | None = None,
    tags: dict | None = None,
    audio: str | None = None,
    seconds_of_sound: float | None = None,
    container_options: dict | None = None,
    gop: int = 12,
) -> Path:
    """Encode RGB frames; ``pts`` in units of ``time_base`` for variable rates, ``audio`` the codec of a tone."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if time_base is not None:
            stream.time_base = stream.codec_context.time_base = time_base
        sound = container.add_stream(audio, rate=48000, layout="mono") if audio else None
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[i], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            samples = int(48000 * (seconds_of_sound or len(frames) / rate))
            tone = (0.2 * np.sin(np.arange(samples) / 20)).astype(np.float32)
            for start in range(0, samples, 1024):
                piece = tone[start : start + 1024][None]
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48000, start
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def read_clip(path: Path) -> tuple[list[np.ndarray], list[Fraction]]:
    """Frames as RGB, and when each is shown, in seconds."""
    with av.open(str(path)) as container:
        decoded = list(container.decode(container.streams.video[0]))
        return [frame.to_ndarray(format="rgb24") for frame in decoded], [
            frame.pts * frame.time_base for frame in decoded
        ]
