"""Settings of a whole run over files."""

from __future__ import annotations

from dataclasses import dataclass, field

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.infer.encode import EncodeConfig
from deblur_deploy.infer.restore import RestoreConfig


@dataclass(frozen=True)
class VideoConfig:
    """How videos are written.

    Args:
        codec: FFmpeg's name of an encoder, such as ``libx264``, or None for the codec of the input.
        crf: Constant rate factor of the encoder; lower is better and larger.
    """

    codec: str | None = None
    crf: int = 18

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 63:
            raise ConfigError(f"crf is {self.crf}", hint="give 0 (lossless) to 63, such as 18")


@dataclass(frozen=True)
class InferConfig:
    """How files are restored.

    Args:
        restore: Memory and tiles.
        encode: Format and quality of pictures.
        video: Codec and quality of videos.
        resume: Skip files that are done.
    """

    restore: RestoreConfig = field(default_factory=RestoreConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    video: VideoConfig = VideoConfig()
    resume: bool = False
