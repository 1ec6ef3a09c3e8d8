"""Which encoder writes a film, and in which pixel format: its own where that loses nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.infer.film.color import Target, target_colors
from deblur_deploy.infer.film.containers import preferred, takes
from deblur_deploy.infer.film.encoders import (
    ALPHA_FIRST,
    DEEP_FIRST,
    ENCODERS,
    NEAREST,
    VideoEncoder,
    encoder_named,
    own_encoders,
)
from deblur_deploy.infer.film.metadata import hdr_options
from deblur_deploy.infer.film.source import FilmFacts
from deblur_deploy.infer.settings import VideoConfig

_QSCALE_UNIT = 118
"""FF_QP2LAMBDA: the unit in which FFmpeg gives quantizers."""

_COARSE = re.compile(r"nv\d|p0|pal|mono|ya|x2|(rgb|bgr)(4$|4_|444|5|8)|.*(f16|f32)[lb]e$|.*msble$|.*_byte$")
"""Pixel formats that hold fewer colours than a network gives, that few programs read, or of floating point."""

_PRORES = {"Proxy": "proxy", "LT": "lt", "Standard": "standard", "HQ": "hq", "4444": "4444", "4444 XQ": "4444xq"}
_DNXHR = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx", "yuv444p10le": "dnxhr_444", "gbrp10le": "dnxhr_444"}

_SMALLEST_DEPTH = 10
"""Bits that a film's own codec must offer to be taken where it has fewer than the film."""


@dataclass(frozen=True)
class EncoderChoice:
    """One way to write a film.

    Args:
        encoder: What writes it.
        target: Pixel format and colours.
        options: Options of the encoder.
        notes: What of the film this way loses or changes.
    """

    encoder: VideoEncoder
    target: Target
    options: dict[str, str]
    notes: tuple[str, ...]


def choices(facts: FilmFacts, config: VideoConfig, writer: Any) -> Iterator[EncoderChoice]:
    """Ways to write a film, the best first; encoders have limits of size that only opening them tells.

    Args:
        facts: The film.
        config: What the user asks for.
        writer: The open result.

    Raises:
        ConfigError: What the user asks for does not go together, or the film has transparency that nothing keeps.
    """
    ways = [(row, *_format_for(row, facts, config)) for row in _candidates(facts, config, writer)]
    usable = [(row, name, lost) for row, name, lost in ways if name is not None]
    with_alpha = facts.has_alpha and not config.drop_alpha
    keeping = [way for way in usable if not (with_alpha and "transparency" in way[2])]
    if usable and not keeping:
        raise ConfigError(
            f"{writer.format.name} files hold no video with transparency that can be written here",
            hint="add --drop-alpha to leave it out",
        )
    if not keeping and config.codec is None:
        raise ConfigError(
            f"nothing that {writer.format.name} files take can hold {config.pixel_format or facts.pix_fmt}",
            hint="copy the film into Matroska first: ffmpeg -i FILM -map 0 -c copy FILM.mkv",
        )
    # Python's sort keeps the order of what loses equally much.
    for row, name, lost in sorted(keeping, key=lambda way: len(way[2] - _accepted(way[0], way[1], facts))):
        yield _choice(row, str(name), lost, facts, config)


def _candidates(facts: FilmFacts, config: VideoConfig, writer: Any) -> list[VideoEncoder]:
    if config.codec is not None:
        return [encoder_named(config.codec)]
    own = own_encoders(facts.codec)
    if facts.is_rgb and not any(row.scale == "lossless" for row in own):
        own = own[::-1]  # libx264rgb before libx264
    first = ALPHA_FIRST if facts.has_alpha and not config.drop_alpha else DEEP_FIRST if facts.bits > 8 else ()
    order = [NEAREST.get(facts.codec), preferred(writer.format.name), *first]
    others = sorted(
        (row for row in ENCODERS if row.codec != facts.codec and row.name != "libx264rgb"),
        key=lambda row: order.index(row.name) if row.name in order else len(order),
    )
    return [row for row in (*own, *others) if takes(writer, row.codec, row.name) and _is_there(row.name)]


def _is_there(name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except ValueError:
        return False
    return True


def _format_for(row: VideoEncoder, facts: FilmFacts, config: VideoConfig) -> tuple[str | None, set[str]]:
    """The encoder's pixel format that loses least, and what is lost."""
    try:
        offered = [layout.name for layout in av.codec.Codec(row.name, "w").video_formats or []]
    except ValueError as err:
        raise ConfigError(
            f"FFmpeg has no encoder {row.name!r} here", hint="leave out --codec for that of the input, or give libx264"
        ) from err
    names = [name for name in offered if not _is_coarse(name)] or ([] if offered else [facts.pix_fmt])
    if row.even:
        names = [name for name in names if _fits_odd(name, facts)]
    if config.pixel_format is not None:
        if config.pixel_format not in names:
            if config.codec is None:
                return None, set()
            raise ConfigError(
                f"{row.name} takes no pixel format {config.pixel_format!r}", hint=f"choose one of {', '.join(names)}"
            )
        names = [config.pixel_format]
    if facts.pix_fmt in names:
        return facts.pix_fmt, set()
    best, loss = av.codec.codec.find_best_pix_fmt_of_list(names, facts.pix_fmt, facts.has_alpha) if names else (None, 0)
    kinds = av.codec.codec.PixFmtLoss
    lost = {
        what
        for flag, what in ((kinds.ALPHA, "transparency"), (kinds.DEPTH, "depth"), (kinds.RESOLUTION, "chroma"))
        if loss & flag and not (flag == kinds.ALPHA and not facts.has_alpha)
    }
    return (best.name if best else None), lost


def _is_coarse(name: str) -> bool:
    return _COARSE.match(name) is not None


def _fits_odd(name: str, facts: FilmFacts) -> bool:
    layout = av.VideoFormat(name, 16, 16)
    return not (
        (facts.width % 2 and layout.chroma_width() < layout.width)
        or (facts.height % 2 and layout.chroma_height() < layout.height)
    )


def _accepted(row: VideoEncoder, pix_fmt: str | None, facts: FilmFacts) -> set[str]:
    """What a film's own codec may lose before another is taken: bits beyond ten."""
    own = row.codec == facts.codec and pix_fmt is not None
    return {"depth"} if own and _bits(str(pix_fmt)) >= _SMALLEST_DEPTH else set()


def _bits(pix_fmt: str) -> int:
    return max((component.bits for component in av.VideoFormat(pix_fmt).components), default=8)


def _choice(row: VideoEncoder, pix_fmt: str, lost: set[str], facts: FilmFacts, config: VideoConfig) -> EncoderChoice:
    notes = []
    if row.codec != facts.codec and config.codec is None:
        notes.append(f"{facts.codec} with {facts.pix_fmt} cannot be written into this container: {row.codec} instead")
    for what, words in (
        ("depth", f"{facts.bits} bits become {_bits(pix_fmt)}"),
        ("chroma", f"the chroma of {facts.pix_fmt} becomes that of {pix_fmt}"),
        ("transparency", "transparency is left out"),
    ):
        if what in lost:
            notes.append(words)
    if row not in ENCODERS:
        notes.append(f"{row.name} is left to decide over its quality")
    if facts.is_rgb and not av.VideoFormat(pix_fmt).is_rgb:
        notes.append(f"RGB becomes {pix_fmt}")
    target = Target(pix_fmt, target_colors(facts, pix_fmt, row.codec))
    return EncoderChoice(row, target, _options(row, pix_fmt, facts, config), (*notes,))


def _options(row: VideoEncoder, pix_fmt: str, facts: FilmFacts, config: VideoConfig) -> dict[str, str]:
    options = dict(row.options)
    for name, text in [*hdr_options(row.name, facts).items(), *_even_chroma(row.name, pix_fmt).items()]:
        options[name] = f"{options[name]}:{text}" if name in options else text
    quality = _quality(row, config.crf)
    if row.scale == "crf":
        options["crf"] = str(quality)
    elif row.name == "prores_ks":
        options |= {"flags": "+qscale", "global_quality": str(quality * _QSCALE_UNIT)}
        options["profile"] = _PRORES.get(facts.profile or "", "4444" if "444" in pix_fmt else "hq")
    elif row.scale == "quantizer":
        options |= {"qmin": str(quality), "qmax": str(quality)}
    if row.name.startswith("libvpx") and pix_fmt.startswith("yuva"):
        options["auto-alt-ref"] = "0"  # libvpx keeps no transparency with it
    if row.name == "dnxhd":
        options["profile"] = _DNXHR[pix_fmt]
    if config.profile is not None:
        options["profile"] = config.profile
    if config.preset is not None:
        known = {option.name for option in av.CodecContext.create(row.name, "w").supported_options.private}
        if "preset" not in known:
            raise ConfigError(f"{row.name} has no presets", hint="leave out --preset")
        options["preset"] = config.preset
    return options


def _even_chroma(encoder: str, pix_fmt: str) -> dict[str, str]:
    """x264 quantizes chroma that is not subsampled by 6 steps more."""
    return {"x264-params": "chroma-qp-offset=-6"} if encoder == "libx264" and "444" in pix_fmt else {}


def _quality(row: VideoEncoder, crf: int | None) -> int:
    if crf is None:
        return row.default
    if row.scale == "lossless":
        raise ConfigError(f"{row.name} is lossless, and --crf {crf} would do nothing", hint="leave out --crf")
    if row.scale == "fixed":
        raise ConfigError(
            f"the quality of {row.name} is that of its profile, and --crf {crf} would do nothing",
            hint="leave out --crf, or give another --codec",
        )
    if not row.best <= crf <= row.worst:
        raise ConfigError(f"--crf is {crf}", hint=f"give {row.best} to {row.worst} for {row.name}")
    return crf
