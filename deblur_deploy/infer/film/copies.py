"""Everything in a film besides the picture: sound, subtitles, fonts, covers and data, copied packet by packet."""

from __future__ import annotations

import io
from typing import Any

import av

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.film.metadata import kept_metadata
from deblur_deploy.infer.film.source import METADATA_ERRORS, is_still

_MATROSKA = ("matroska", "webm")


class Copies:
    """Streams that go through as they are.

    Args:
        reader: The film.
        writer: The result.
        covers: Files of covers by index of their streams.
    """

    def __init__(self, reader: Any, writer: Any, covers: dict[int, bytes]) -> None:
        self._reader, self._writer, self._covers = reader, writer, covers
        self._targets: dict[int, Any] = {}
        self.notes: list[str] = []

    @property
    def streams(self) -> list[Any]:
        """The film's streams of which packets are copied."""
        return [stream for stream in self._reader.streams if stream.index in self._targets]

    def target_of(self, stream: Any) -> Any:
        """The result's stream for one of the film, or None."""
        return self._targets.get(stream.index)

    def add(self, stream: Any) -> None:
        """Take a stream over.

        Raises:
            ArtifactError: The container does not take this sound.
        """
        if stream.type == "video" and is_still(stream) and self._writer.format.name in _MATROSKA:
            self._attach_cover(stream)
        elif stream.type in ("data", "attachment", "subtitle", "unknown"):
            self._add_if_possible(stream)
        else:
            if stream.type == "video" and not is_still(stream):
                self.notes.append(f"the second video, stream {stream.index}, is copied as it is")
            self._add(stream)

    def _attach_cover(self, stream: Any) -> None:
        data = self._covers.get(stream.index)
        if data is not None:
            kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
            name = stream.metadata.get("filename", f"cover.{'png' if kind == 'png' else 'jpg'}")
            self._writer.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), data)

    def _add_if_possible(self, stream: Any) -> None:
        if stream.type == "data" and (stream.name == "bin_data" or "timecode" in stream.metadata):
            return  # QuickTime's chapters and time codes: the writer makes these tracks itself
        if stream.type != "attachment" and not self._is_taken(stream):
            self.notes.append(f"{self._writer.format.name} files take no {stream.type} of the kind {_codec_of(stream)}")
        elif stream.type == "attachment" and self._writer.format.name != "matroska":
            self.notes.append(f"{self._writer.format.name} files take no attachments")
        else:
            self._add(stream)

    def _is_taken(self, stream: Any) -> bool:
        """Try it in a file of its own: a muxer refuses a stream when it writes the header, and then it is too late."""
        try:
            with av.open(io.BytesIO(), "w", format=self._writer.format.name, metadata_errors=METADATA_ERRORS) as trial:
                trial.add_stream_from_template(stream)
                trial.start_encoding()
        except BAD_FILE_ERRORS:
            return False
        return True

    def _add(self, stream: Any) -> None:
        try:
            out = self._writer.add_stream_from_template(stream, opaque=True)
        except BAD_FILE_ERRORS as err:
            raise ArtifactError(
                f"{self._writer.format.name} files take no {stream.type} of the codec {_codec_of(stream)}: {err}",
                hint="name the file by its container, such as .mkv, which takes nearly everything",
            ) from err
        out.metadata.clear()
        out.metadata.update(kept_metadata(stream.metadata))
        out.disposition = stream.disposition
        self._targets[stream.index] = out


def _codec_of(stream: Any) -> str:
    return str(stream.codec_context.name if stream.codec_context else getattr(stream, "name", None) or "unknown")
