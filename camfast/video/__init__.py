"""Video: reader, pipeline, writer."""

from camfast.video.pipeline import VideoSummary, annotate_video
from camfast.video.reader import Frame, VideoReader
from camfast.video.writer import VideoWriter

__all__ = ["Frame", "VideoReader", "VideoSummary", "VideoWriter", "annotate_video"]
