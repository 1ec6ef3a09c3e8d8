"""``deblur-deploy infer``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deblur_deploy.cli.console import Output, keep_stdout
from deblur_deploy.cli.infer_output import conclude, restore_jobs
from deblur_deploy.cli.options import Json, Runtime
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.files import check_writable
from deblur_deploy.core.images import parse_resolution
from deblur_deploy.core.lock import locked
from deblur_deploy.core.units import one_line

if TYPE_CHECKING:
    from deblur_deploy.infer.run import FileRestorer
    from deblur_deploy.infer.settings import InferConfig
    from deblur_deploy.runtime.runner import Runner

STANDARD_STREAM = Path("-")

Inputs = Annotated[
    list[Path] | None,
    typer.Argument(help="Pictures, videos and folders of them (with subfolders); - for raw frames on stdin."),
]
Format = Annotated[str | None, typer.Option(help="Format of pictures. Left out: that of each input.")]
Quality = Annotated[int, typer.Option(help="Quality of formats that have one, such as JPEG, 1 to 100.")]
Codec = Annotated[str | None, typer.Option(help="Film encoder, such as libx264. Left out: that of the input's codec.")]
Crf = Annotated[
    int | None,
    typer.Option(help="Quality of films on the encoder's own scale; lower is better. Left out: visually lossless."),
]
PixelFormat = Annotated[str | None, typer.Option(help="Pixel format of films, such as yuv420p10le.")]
Profile = Annotated[str | None, typer.Option(help="Profile of the film encoder, such as high422.")]
Preset = Annotated[str | None, typer.Option(help="Preset of the film encoder, such as slow.")]
Deinterlace = Annotated[bool, typer.Option("--deinterlace", help="Make whole pictures of interlaced films.")]
DropAlpha = Annotated[bool, typer.Option("--drop-alpha", help="Leave out transparency where the result holds none.")]
InPoint = Annotated[str | None, typer.Option("--in-point", "--in", help="Where films begin, such as 1:30.")]
OutPoint = Annotated[str | None, typer.Option("--out-point", help="Where films end, such as 1:40.")]
MaxMemory = Annotated[str, typer.Option(help="What the program may take; larger pictures go through in tiles.")]
Strength = Annotated[float, typer.Option(help="How much of the change is taken, from 0 (none) to 1 (all).")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Restore cut-off JPEGs as far as they go.")]
KeepUid = Annotated[bool, typer.Option("--keep-uid", help="Results of DICOM files keep the UID of their picture.")]
Temporal = Annotated[
    bool,
    typer.Option("--temporal", help="Of a temporal network: restore films and numbered frames with the frame before."),
]
Preview = Annotated[bool, typer.Option("--preview", help="Show a part of a few pictures before and after, and stop.")]
Tile = Annotated[str | None, typer.Option(help="Size of tiles as WIDTHxHEIGHT, instead of what fits.")]
Engine = Annotated[str, typer.Option(help="What runs the network on many files: local, or ray for a Ray cluster.")]
Workers = Annotated[int | None, typer.Option(help="With --engine ray: how many networks. Left out: one per machine.")]
Raw = Annotated[str | None, typer.Option(help="Size of raw rgb24 frames on stdin and stdout.")]


def command(
    source: Annotated[Path, typer.Argument(help="Artifact of the network, of any kind that this machine can run.")],
    inputs: Inputs = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; with raw frames - for stdout.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Of folders, only files whose name or path matches.")] = None,
    format: Format = None,
    quality: Quality = 95,
    codec: Codec = None,
    crf: Crf = None,
    pixel_format: PixelFormat = None,
    profile: Profile = None,
    preset: Preset = None,
    deinterlace: Deinterlace = False,
    drop_alpha: DropAlpha = False,
    in_point: InPoint = None,
    out_point: OutPoint = None,
    strength: Strength = 1.0,
    keep_going: KeepGoing = False,
    keep_uid: KeepUid = False,
    temporal: Temporal = False,
    preview: Preview = False,
    max_memory: MaxMemory = "2GB",
    tile: Tile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip files that were done in the same way.")] = False,
    watch: Annotated[Path | None, typer.Option(help="Folder to watch for files, until Ctrl-C.")] = None,
    poll: Annotated[float, typer.Option(help="Seconds between two polls of the watched folder.")] = 1.0,
    raw: Raw = None,
    runtime: Runtime = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads. Left out: what the runtime chooses.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run an engine file that has no manifest.")] = False,
    engine: Engine = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Deblur pictures, folders and videos with a network."""
    from deblur_deploy.infer.encode import EncodeConfig
    from deblur_deploy.infer.jobs import parse_format
    from deblur_deploy.infer.memory import parse_memory
    from deblur_deploy.infer.restore import RestoreConfig
    from deblur_deploy.infer.settings import DicomConfig, InferConfig, VideoConfig, parse_part

    kind, suffix = parse_format(format) if format else (None, None)
    size = parse_resolution(tile) if tile else None
    restore = RestoreConfig(parse_memory(max_memory), size, strength=strength)
    part = parse_part(in_point, out_point)
    film = VideoConfig(codec, crf, pixel_format, profile, preset, deinterlace, drop_alpha, *part)
    config = InferConfig(
        restore, EncodeConfig(kind, quality), film, DicomConfig(keep_uid), resume, keep_going, temporal
    )
    if out is None:
        raise ConfigError("no folder for the results was named", hint="name a folder with --out")
    given, machine = inputs or [], _Machine(source, runtime, threads, trust, engine, workers, temporal)
    if temporal and (preview or watch is not None):
        raise ConfigError("--temporal is for whole films", hint="leave out --preview and --watch")
    choice = _Choice(tuple(given), out, pattern, suffix, watch, poll)
    if raw is not None or STANDARD_STREAM in given:
        _stream(machine, choice, raw, as_json, config)
        return
    if bool(given) == (watch is not None):
        raise ConfigError("give either files and folders or --watch", hint="write `infer SOURCE photos/ --out results`")
    if preview:
        _preview(Output(as_json), machine, choice, config)
        return
    _restore_files(Output(as_json), machine, choice, config)


@dataclass(frozen=True)
class _Machine:
    """What runs: the path, the runtime, the threads, whether an engine file is trusted; where, and on what."""

    source: Path
    runtime: str | None
    threads: int | None
    trust: bool
    engine: str
    workers: int | None
    temporal: bool = False

    def __post_init__(self) -> None:
        if self.temporal and self.engine != "local":
            raise ConfigError("frames of a film need the frame before them", hint="leave out --engine, or --temporal")
        if self.engine not in ("local", "ray"):
            raise ConfigError(f"there is no engine {self.engine!r}", hint="choose local or ray")
        if self.workers is not None and self.engine == "local":
            raise ConfigError("--workers is for a cluster", hint="add --engine ray, or leave it out")

    def artifact(self) -> Artifact:
        """The artifact, or what is known of an engine file without a manifest."""
        from deblur_deploy.runtime.engine_load import adopt_engine, is_foreign_engine

        if is_foreign_engine(self.source):
            return adopt_engine(self.source, trust=self.trust)
        return load_artifact(self.source)


@dataclass(frozen=True)
class _Choice:
    """Which files are restored: those that are given, or those that arrive in the watched folder."""

    given: tuple[Path, ...]
    out: Path
    pattern: str | None
    suffix: str | None
    watch: Path | None
    poll: float

    def __post_init__(self) -> None:
        if self.poll <= 0:
            raise ConfigError(f"poll is {self.poll:g}", hint="give seconds above 0, such as 1")


def _restore_files(output: Output, machine: _Machine, choice: _Choice, config: InferConfig) -> None:
    from deblur_deploy.infer.jobs import find_jobs

    check_writable(choice.out)
    passed: Counter[str] = Counter()
    jobs = find_jobs(choice.given, choice.out, choice.pattern, choice.suffix, passed)
    artifact = machine.artifact()
    output.say(f"source    {artifact.directory} (named on the command line)")
    with _alone_in(choice.out), _file_runner(artifact, machine, choice.out, config) as files:
        if choice.watch is None:
            files.report.passed_over.update(passed)
            restore_jobs(output, files, jobs)
        else:
            _serve(output, files, choice.watch, choice)
    if files.seams:
        output.say(f"warning   {files.seams}")
    if files.deaths:
        output.say(f"note      {files.deaths} workers died; others started their files again")
    conclude(output, files.report, choice.out)


def _preview(output: Output, machine: _Machine, choice: _Choice, config: InferConfig) -> None:
    """Sheets of some pictures before and after, instead of the run."""
    from deblur_deploy.cli.infer_preview import write_previews
    from deblur_deploy.infer.jobs import find_jobs

    if choice.watch is not None or machine.engine != "local":
        raise ConfigError("--preview is for files and folders on this machine", hint="leave out --watch and --engine")
    check_writable(choice.out)
    jobs = find_jobs(choice.given, choice.out, choice.pattern, choice.suffix)
    artifact = machine.artifact()
    output.say(f"source    {artifact.directory} (named on the command line)")
    with _opened(artifact, machine) as runner:
        sheets = write_previews(runner, jobs, choice.out, config)
    for sheet in sheets:
        output.say(f"wrote     {one_line(str(sheet))}")
    output.emit({"previews": [str(sheet) for sheet in sheets]})


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other processes out of the folder; what killed runs and killed workers left half is removed.

    Raises:
        ArtifactError: Another process is writing there.
    """
    from deblur_deploy.core.files import remove_partials

    with locked(out, inside=True) as is_sure:
        if is_sure:
            remove_partials(out, below=True)
        try:
            yield
        finally:
            if is_sure:
                remove_partials(out, below=True)


@contextmanager
def _file_runner(artifact: Artifact, machine: _Machine, out: Path, config: InferConfig) -> Iterator[FileRestorer]:
    """What restores the files: this process, or the workers of a cluster."""
    if machine.engine == "ray":
        from deblur_deploy.infer.cluster import ClusterConfig, ClusterRunner

        workers = ClusterConfig(machine.workers, machine.runtime, machine.threads)
        # Ray says on stdout what happens to its workers, and stdout may be for JSON.
        with redirect_stdout(sys.stderr), ClusterRunner(artifact, out, config, workers) as cluster:
            yield cluster
        return
    from deblur_deploy.infer.run import FileRunner

    with _opened(artifact, machine) as runner:
        yield FileRunner(artifact, runner, out, config)


@contextmanager
def _opened(artifact: Artifact, machine: _Machine) -> Iterator[Runner]:
    from deblur_deploy.runtime.runner import open_with
    from deblur_deploy.runtime.runtimes import OpenOptions

    options = OpenOptions(machine.threads, temporal=machine.temporal)
    with open_with(artifact, machine.runtime, options) as runner:
        yield runner


def _stream(machine: _Machine, choice: _Choice, raw: str | None, as_json: bool, config: InferConfig) -> None:
    """Raw frames from stdin to stdout; everything for people goes to stderr."""
    from deblur_deploy.infer.raw import restore_raw
    from deblur_deploy.infer.restore import Restorer

    if raw is None or choice.given != (STANDARD_STREAM,) or choice.out != STANDARD_STREAM:
        raise ConfigError(
            "raw frames need a size, and go from stdin to stdout", hint="write `infer SOURCE - --out - --raw 1280x720`"
        )
    if machine.engine != "local":
        raise ConfigError(
            "raw frames come one after the other, so one machine restores them", hint="leave out --engine"
        )
    if as_json:
        raise ConfigError("--json and raw frames both need stdout", hint="leave out --json")
    size = parse_resolution(raw)
    frames_out, output = keep_stdout().buffer, Output(as_json=True)
    with _opened(machine.artifact(), machine) as runner:
        restorer = Restorer(runner, config.restore)
        frames = restore_raw(sys.stdin.buffer, frames_out, size, restorer, lambda count: None)
    output.say(f"restored  {frames} frames of {size}")
    for note in restorer.cut_notes(0):
        output.say(f"note      {note}")


def _serve(output: Output, files: FileRestorer, watch: Path, choice: _Choice) -> None:
    from deblur_deploy.infer.watch import arriving_jobs, serve

    batches = arriving_jobs(watch, choice.out, pattern=choice.pattern, suffix=choice.suffix, poll_seconds=choice.poll)
    output.say(f"watching  {watch}; Ctrl-C ends it")
    serve(batches, lambda jobs: restore_jobs(output, files, jobs, lines=True))
