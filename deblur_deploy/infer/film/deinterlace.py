"""Interlaced films: two fields a picture, from different times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

from deblur_deploy.core.errors import ConfigError


def refuse_interlaced(path: Any) -> ConfigError:
    """The error for an interlaced film that nobody wants deinterlaced."""
    return ConfigError(
        f"{path} is interlaced: two half pictures from different times in each frame, which a network would mix",
        hint="add --deinterlace",
    )


class Deinterlacer:
    """libavfilter's bwdif: one picture for every two fields, at the time of the first; others go through.

    Args:
        stream: The stream that the frames are of.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._graph: Any = None

    def frames(self, frame: Any) -> Iterator[Any]:
        """The pictures that are finished with one more frame; None at the end."""
        if frame is not None and self._graph is None:
            self._graph = self._new_graph(frame)
        if self._graph is None:
            return
        self._graph.vpush(frame)
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    def _new_graph(self, frame: Any) -> Any:
        graph = av.filter.Graph()
        unit = frame.time_base or self._stream.time_base
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=unit)
        bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
        graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
        return graph
