"""Restoring files: pictures, videos and DICOM, one after the other, whatever happens to one of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from deblur_deploy import __version__
from deblur_deploy.core.artifact import Artifact, hash_file
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.infer.bad_files import as_own_error
from deblur_deploy.infer.done_log import DoneLog, Fingerprint
from deblur_deploy.infer.encode import write_picture
from deblur_deploy.infer.jobs import Job
from deblur_deploy.infer.memory import MemoryGate
from deblur_deploy.infer.numbered import FrameNumber, in_order, wanted_again
from deblur_deploy.infer.one_file import Restored, keep_dates, restore_file
from deblur_deploy.infer.overlap import overlap
from deblur_deploy.infer.picture import Picture
from deblur_deploy.infer.read import decoding_bytes, read_picture
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.settings import InferConfig
from deblur_deploy.infer.streaming import StreamingReader, is_large, open_streaming, restore_streaming
from deblur_deploy.infer.tones import restore_picture
from deblur_deploy.runtime.runner import Runner

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class FileResult:
    """The outcome of one file.

    Args:
        input: The file.
        output: Its result, or where it would be.
        status: Whether it was restored, was restored before, or failed.
        frames: Pictures restored: 1, or a video's frames.
        tiles: Tiles that the network worked through for one picture.
        error: What failed, in one sentence.
        notes: What of the file could not be kept, or was changed, one sentence each.
    """

    input: str
    output: str
    status: Status
    frames: int = 0
    tiles: int = 0
    error: str | None = None
    notes: tuple[str, ...] = ()


@dataclass
class InferReport:
    """The outcome of a run.

    Args:
        artifact: Directory of the network.
        runtime: What it ran on.
        seconds: Time from the first file to the last.
        files: One entry for each file, in the order in which they were finished.
        passed_over: Files of folders that are not pictures, films or scans, counted by suffix.
    """

    artifact: str
    runtime: str
    seconds: float = 0.0
    files: list[FileResult] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def count(self, status: Status) -> int:
        """How many files ended so."""
        return sum(result.status == status for result in self.files)

    @property
    def frames(self) -> int:
        """Pictures restored in this run."""
        return sum(result.frames for result in self.files)

    @property
    def failures(self) -> list[FileResult]:
        """The files that failed."""
        return [result for result in self.files if result.status == "failed"]

    def as_json(self) -> dict[str, Any]:
        """The object that ``infer --json`` prints."""
        return {
            "artifact": self.artifact,
            "runtime": self.runtime,
            "done": self.count("done"),
            "skipped": self.count("skipped"),
            "failed": self.count("failed"),
            "frames": self.frames,
            "seconds": self.seconds,
            "fps": self.frames / self.seconds if self.seconds else None,
            "passed_over": dict(self.passed_over),
            "files": [asdict(result) for result in self.files],
        }


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Args:
        job: The file that is worked on.
        frames: How many of its frames are restored.
        of: How many it has, as far as that is known.
        result: Its outcome, when it is finished.
    """

    job: Job
    frames: int
    of: int | None = None
    result: FileResult | None = None


Notify = Callable[[Progress], None]


@dataclass(frozen=True)
class _Decoded:
    """A picture on its way through the threads, with the memory that it holds; or what went wrong."""

    job: Job
    gate_bytes: int = 0
    input_hash: str = ""
    picture: Picture | None = None
    reader: StreamingReader | None = None
    tiles: int = 0
    notes: tuple[str, ...] = ()
    error: DeblurDeployError | None = None
    skipped: bool = False


class FileRestorer(Protocol):
    """What restores files into one folder: this process (:class:`FileRunner`) or a cluster.

    Attributes:
        report: The outcome so far.
        deaths: Workers that died on the way.
    """

    report: InferReport
    deaths: int

    @property
    def seams(self) -> str:
        """Why borders of tiles show, or an empty text (see :class:`Restorer`)."""

    def run(self, jobs: Sequence[Job], notify: Notify) -> None:
        """Restore files; failures go into the report, and the other files go on."""


class FileRunner:
    """Restores files into one folder.

    Args:
        artifact: The network.
        runner: The same, opened.
        out: Folder for results and for the done log.
        config: How.

    Raises:
        ConfigError: The memory does not suffice for the network alone.
        ArtifactError: The done log cannot be read.
    """

    def __init__(self, artifact: Artifact, runner: Runner, out: Path, config: InferConfig) -> None:
        fingerprint = Fingerprint(artifact.sha256, runner.name, __version__, settings_of(config))
        self._config = config
        self._done_log = DoneLog(out, fingerprint)
        self._restorer = Restorer(runner, config.restore, dict(self._done_log.measured))
        self._gate = MemoryGate(self._restorer.in_flight_bytes)
        self._frame: FrameNumber | None = None
        self.report = InferReport(str(artifact.directory), runner.name)
        self.deaths = 0

    @property
    def seams(self) -> str:
        """Why borders of tiles show, or an empty text (see :class:`Restorer`)."""
        return self._restorer.seams

    def run(self, jobs: Sequence[Job], notify: Notify) -> None:
        """Restore files; failures go into the report, and the other files go on.

        Raises:
            ArtifactError: The done log cannot be written.
        """
        started = time.perf_counter()
        try:
            for job in jobs:
                if job.conflict is not None:
                    self._note(job, failed_result(job, job.conflict), notify)
            clear = [job for job in jobs if job.conflict is None]
            pictures = [job for job in clear if job.kind == "picture"]
            if self._config.temporal:
                pictures = in_order(pictures)
            stop = threading.Event()
            overlap(self._decode_all(pictures, stop), self._restore, lambda item: self._finish(item, notify), stop)
            for job in clear:
                if job.kind != "picture":
                    self._run_stream(job, notify)
        finally:
            self.report.seconds += time.perf_counter() - started

    def _decode_all(self, jobs: Sequence[Job], stop: threading.Event) -> Iterator[_Decoded]:
        """In the reading thread."""
        done = self._done_frames(jobs)
        again = wanted_again(jobs, [done.get(job.name, False) for job in jobs])
        for job, for_the_next in zip(jobs, again, strict=True):
            entered = 0
            try:
                is_done = done[job.name] if job.name in done else self._is_done(job)
                if is_done and not for_the_next:
                    yield _Decoded(job, skipped=True)
                    continue
                needed = decoding_bytes(job.source, self._config.encode.format)
                reader = None
                if is_large(needed, self._restorer):
                    reader = open_streaming(job.source, self._config.encode.format)
                if reader is None:
                    self._restorer.require(needed, str(job.source))
                # A streamed picture takes little, yet waits where a picture that takes nearly all memory is in it.
                cost = 1 if reader else needed
                if not self._gate.enter(cost, stop.is_set):
                    return
                entered = cost
                input_hash = hash_file(job.source)
                if reader is not None:
                    yield _Decoded(job, cost, input_hash, reader=reader)
                    continue
                self._restorer.make_room(needed)
                picture = read_picture(job.source, cut_off=self._config.keep_going)
                yield _Decoded(job, cost, input_hash, picture, notes=picture.notes, skipped=is_done)
            except Exception as err:
                yield _Decoded(job, entered, error=as_own_error(err, job.source))

    def _done_frames(self, jobs: Sequence[Job]) -> dict[str, bool]:
        """Of frames of films, by name which are done; those that cannot be looked at are told when their turn comes."""
        done: dict[str, bool] = {}
        for job in jobs if self._config.temporal and self._config.resume else ():
            with contextlib.suppress(DeblurDeployError):
                done[job.name] = self._is_done(job)
        return done

    def _restore(self, item: _Decoded) -> _Decoded:
        """In the caller's thread; what is streamed is written in a thread of its own."""
        begun = self._follow(item) if self._config.temporal else ()
        cuts = self._restorer.cuts
        try:
            if item.reader is not None:
                target_format = self._config.encode.format
                tiles, notes = restore_streaming(item.reader, item.job.target, target_format, self._restorer)
            elif item.picture is not None:
                tiles, notes = restore_picture(self._restorer, item.picture, item.gate_bytes)
            else:
                return item
        except Exception as err:
            self._frame = None
            return _Decoded(item.job, item.gate_bytes, error=as_own_error(err, item.job.source))
        if self._restorer.cuts > cuts:
            begun = (*begun, "the film is cut before this frame, and the network began anew")
        if item.skipped:  # it went through for the frames behind it, and its result is there
            return replace(item, picture=None)
        return replace(item, reader=None, tiles=tiles, notes=(*item.notes, *begun, *notes))

    def _follow(self, item: _Decoded) -> tuple[str, ...]:
        """Begin a film where a picture does not follow the one before; what is to be said of that."""
        before, self._frame = self._frame, FrameNumber.of(item.job.source) if item.error is None else None
        missing = self._frame.missing_after(before) if self._frame else None
        if missing != 0:
            self._restorer.begin_film()
        if not missing:
            return ()
        what = "1 frame is" if missing == 1 else f"{missing} frames are"
        return (f"{what} missing before this one, and the network began anew",)

    def _finish(self, item: _Decoded, notify: Notify) -> None:
        """In the writing thread."""
        job, error, notes = item.job, item.error, item.notes
        if item.picture is not None:
            try:
                notes += write_picture(job.target, item.picture, self._config.encode)
            except Exception as err:
                error = as_own_error(err, job.source)
        self._gate.leave(item.gate_bytes)
        if item.skipped:
            return self._note(job, FileResult(str(job.source), str(job.target), "skipped"), notify)
        if error is not None:
            return self._note(job, failed_result(job, error), notify)
        keep_dates(job)
        return self._done(job, Restored(item.input_hash, 1, item.tiles, notes), notify)

    def _run_stream(self, job: Job, notify: Notify) -> None:
        """A video or a DICOM file, which overlaps its own frames."""
        try:
            if self._is_done(job):
                return self._note(job, FileResult(str(job.source), str(job.target), "skipped"), notify)
            if self._config.temporal and job.kind == "dicom":
                raise ConfigError(
                    f"{job.name} is a DICOM file, whose pictures are restored one by one", hint="leave out --temporal"
                )
            restored = restore_file(
                job, self._restorer, self._config, lambda count, of: notify(Progress(job, count, of))
            )
        except Exception as err:
            return self._note(job, failed_result(job, as_own_error(err, job.source)), notify)
        self._done(job, restored, notify)
        return None

    def _is_done(self, job: Job) -> bool:
        return self._config.resume and self._done_log.is_done(job.name, job.source, job.target)

    def _done(self, job: Job, restored: Restored, notify: Notify) -> None:
        if restored.ended_early is not None:  # a second run with --resume tries again
            return self._note(job, done_result(job, restored), notify)
        self._done_log.add(job.name, restored.input_hash, job.target)
        self._done_log.remember(self._restorer.known)
        return self._note(job, done_result(job, restored), notify)

    def _note(self, job: Job, result: FileResult, notify: Notify) -> None:
        self.report.files.append(result)
        notify(Progress(job, result.frames, result.frames, result))


def done_result(job: Job, restored: Restored) -> FileResult:
    """The entry of a file that was restored; one that ended early failed, though there is a result."""
    status: Status = "done"
    error = None
    if restored.ended_early is not None:
        status, error = "failed", f"{job.source} {restored.ended_early}; the result {job.target} is kept"
    return FileResult(str(job.source), str(job.target), status, restored.frames, restored.tiles, error, restored.notes)


def failed_result(job: Job, error: DeblurDeployError) -> FileResult:
    """The entry of a file that failed, which is named in its error."""
    named = error.message if job.source.name in error.message else f"{job.source}: {error.message}"
    return FileResult(str(job.source), str(job.target), "failed", error=f"{named}; {error.hint}")


def settings_of(config: InferConfig) -> dict[str, Any]:
    """The settings that decide how results look, as the done log holds them.

    Memory is not among them: it decides the tiles, which differ by less than a rounding step.
    """
    settings = asdict(config)
    del settings["resume"], settings["keep_going"]
    del settings["restore"]["max_memory"], settings["restore"]["count_process"]
    settings["video"] |= {"start": str(config.video.start), "end": str(config.video.end)}  # fractions are not JSON
    return settings
