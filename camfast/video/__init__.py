"""Video: reader, model and writer, overlapped."""

from camfast.video.annotate import annotate_video
from camfast.video.explain import ExplainedFrame, explain_video
from camfast.video.reader import Frame, VideoReader
from camfast.video.summary import VideoSummary
from camfast.video.writer import VideoWriter

__all__ = [
    "ExplainedFrame",
    "Frame",
    "VideoReader",
    "VideoSummary",
    "VideoWriter",
    "annotate_video",
    "explain_video",
]
