"""Artifacts: what stages read and write.

An artifact is a directory with one payload file and ``manifest.json``. The manifest says what the payload is, its
sha256, the network's widths, and the history of every stage it went through. It is written last and the directory is
put in place by one rename, so a directory without a manifest is not an artifact, and a killed run leaves none behind.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.external_data import refuse_external_data
from deblur_deploy.core.image_spec import ImageSpec
from deblur_deploy.core.lock import locked
from deblur_deploy.core.plain_data import to_json
from deblur_deploy.core.tables import from_table

Kind = Literal["checkpoint", "onnx", "engine"]

MANIFEST, FORMAT_VERSION = "manifest.json", 1
_MAX_MANIFEST_BYTES = 16_000_000
_LIBRARIES = (
    "deblur-deploy",
    "torch",
    "nvidia-modelopt",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class NetworkSpec:
    """Plain data from which a network is rebuilt.

    Args:
        arch: Name of the architecture, such as ``srn``.
        config: Its widths and depths, as the architecture's own config has them.
        quantization: How it is fake-quantized (see ``network/fake_quant.py``), or None for a float network.
    """

    arch: str
    config: dict[str, Any]
    quantization: dict[str, Any] | None = None


@dataclass(frozen=True)
class Step:
    """One stage that an artifact went through.

    Args:
        stage: Name of the command.
        config: Its settings.
        versions: Libraries it ran with.
        parent: sha256 of the payload it started from, or None for a first step.
        created: UTC time, ISO 8601 with microseconds.
        figures: What was measured: ``bytes``, ``params``, ``gmacs``, ``psnr_db`` and whatever the stage adds.
    """

    stage: str
    config: dict[str, Any]
    versions: dict[str, str]
    parent: str | None
    created: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A payload on disk with the facts about it.

    Args:
        kind: ``checkpoint`` (safetensors), ``onnx`` or ``engine``.
        path: The payload file, inside the artifact's directory.
        sha256: Hash of the payload.
        network: What it takes to rebuild the network.
        image: What the network takes and gives.
        history: Every step since the checkpoint was imported or trained, oldest first.
    """

    kind: Kind
    path: Path
    sha256: str
    network: NetworkSpec
    image: ImageSpec
    history: tuple[Step, ...]

    @property
    def directory(self) -> Path:
        """The artifact's own directory."""
        return self.path.parent

    @property
    def stage(self) -> str:
        """The last stage it went through."""
        return self.history[-1].stage

    @property
    def figures(self) -> dict[str, Any]:
        """Figures of the whole chain; where two steps give the same figure, the later one."""
        merged: dict[str, Any] = {}
        for step in self.history:
            merged.update(step.figures)
        return merged


@dataclass(frozen=True)
class Draft:
    """An artifact about to be written: everything but its path and hash.

    Args:
        kind: As in :class:`Artifact`.
        file_name: Name of the payload.
        write: Called with the path at which to write the payload.
        network: As in :class:`Artifact`.
        image: As in :class:`Artifact`.
        step: The stage that makes it; its ``figures`` gain ``bytes``.
        earlier: History of the parent.
        measure: Called with the artifact before it is put in place; what it returns joins the step's ``figures``.
    """

    kind: Kind
    file_name: str
    write: Callable[[Path], None]
    network: NetworkSpec
    image: ImageSpec
    step: Step
    earlier: tuple[Step, ...] = field(default=())
    measure: Callable[[Artifact], Mapping[str, Any]] | None = None


def new_step(stage: str, config: Any, parent: Artifact | None, figures: Mapping[str, Any]) -> Step:
    """Describe a stage that has just run.

    Args:
        stage: Name of the command.
        config: The stage's settings: a dataclass or a plain mapping.
        parent: The artifact it started from.
        figures: What was measured.
    """
    plain = dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else config
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    if parent and parent.history[-1].created >= created:  # the clock was set back: a child is newer than its parent
        created = _just_after(parent.history[-1].created)
    return Step(stage, _plain(plain), library_versions(), parent.sha256 if parent else None, created, _plain(figures))


def _just_after(created: str) -> str:
    """One microsecond later; the present where the text is not a time."""
    try:
        return (datetime.fromisoformat(created) + timedelta(microseconds=1)).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):
        return datetime.now(UTC).isoformat(timespec="microseconds")


def library_versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Versions of the installed libraries that decide what a stage computes, and of ``more`` distributions."""
    from importlib import metadata  # with a parser of mail in it, which reading an artifact does not need

    versions = {}
    for name in dict.fromkeys((*_LIBRARIES, *more)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def write_artifact(out: Path, draft: Draft) -> Artifact:
    """Write an artifact so that it is there whole or not at all.

    Args:
        out: The artifact's directory. An older artifact there is replaced.
        draft: What to write.

    Raises:
        ArtifactError: ``out`` cannot be written, is being written by another process, or holds files that are no
            artifact.
    """
    check_replaceable(out)
    with _staging_directory(out) as staging:
        payload = staging / draft.file_name
        draft.write(payload)
        payload.chmod(0o644)  # safetensors keeps it to its owner
        sha256 = hash_file(payload)
        step = _measured(draft, payload, sha256)
        history = (*draft.earlier, step)
        manifest = {
            "format_version": FORMAT_VERSION,
            "kind": draft.kind,
            "file": draft.file_name,
            "sha256": sha256,
            "network": dataclasses.asdict(draft.network),
            "image": dataclasses.asdict(draft.image),
            "history": [dataclasses.asdict(s) for s in history],
        }
        manifest = _plain(manifest)
        manifest["manifest_sha256"] = _manifest_hash(manifest)
        _write_synced(staging / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        _put_in_place(staging, out)
    return _artifact_from(manifest, out / draft.file_name)


def _measured(draft: Draft, payload: Path, sha256: str) -> Step:
    """The draft's step with the figures that need its payload."""
    figures = {**draft.step.figures, "bytes": payload.stat().st_size}
    step = dataclasses.replace(draft.step, figures=figures)
    if draft.measure is None:
        return step
    staged = Artifact(draft.kind, payload, sha256, draft.network, draft.image, (*draft.earlier, step))
    return dataclasses.replace(step, figures=figures | _plain(draft.measure(staged)))


def load_artifact(path: Path) -> Artifact:
    """Read an artifact and check its payload against the manifest.

    Args:
        path: The directory, its manifest, or its payload.

    Raises:
        ArtifactError: There is none, the manifest is malformed, or a byte of the payload was changed.
    """
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for names that are too long
        raise ArtifactError(f"there is no {path}", hint="check the path, or leave it out to take the newest artifact")
    directory = path if path.is_dir() else path.parent
    manifest = _read_manifest(directory / MANIFEST)
    payload = directory / manifest["file"]
    if path not in (directory, directory / MANIFEST, payload):
        raise ArtifactError(f"{path} is not part of the artifact {directory}", hint=f"give {directory} or {payload}")
    _check_inside(payload)
    if not payload.is_file():
        raise ArtifactError(f"{payload} is missing", hint="make the artifact again, or remove its directory")
    expected = str(manifest.get("sha256"))
    if (found := hash_file(payload)) != expected:
        raise ArtifactError(
            f"{payload} is not the file its manifest describes: sha256 {found[:12]}…, manifest says {expected[:12]}…",
            hint="the payload or the manifest was changed after it was written; make the artifact again",
        )
    if manifest.get("kind") == "onnx":
        refuse_external_data(payload)
    return _artifact_from(manifest, payload)


def _check_inside(path: Path) -> None:
    """Refuse a link that leads out of the artifact: what it leads to may change, and is not the artifact's."""
    if path.is_symlink() and path.resolve().parent != path.parent.resolve():
        raise ArtifactError(
            f"{path} is a symbolic link to {path.resolve()}, outside of the artifact",
            hint="copy the artifact with the files that its links lead to, such as with cp -rL",
        )


def hash_file(path: Path) -> str:
    """sha256 of a file as 64 hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise ArtifactError(f"{path} cannot be read: {err}", hint="check the path and its permissions") from err


def _read_manifest(path: Path) -> dict[str, Any]:
    _check_inside(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a regular file")
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise OSError(f"it has more than {_MAX_MANIFEST_BYTES} bytes")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ArtifactError(
            f"{path.parent} is not an artifact: it has no {MANIFEST}",
            hint="give a directory that deblur-deploy wrote; a .pth file becomes one with `deblur-deploy import`",
        ) from err
    except (OSError, ValueError, RecursionError) as err:
        raise ArtifactError(f"{path} cannot be read: {err}", hint="make the artifact again") from err
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(f"{path} is not a manifest of format {FORMAT_VERSION}", hint="make the artifact again")
    if manifest.get("manifest_sha256") != _manifest_hash(manifest):
        raise ArtifactError(
            f"{path} was changed after it was written: its hash does not match",
            hint="facts about an artifact are measured, not edited; make the artifact again",
        )
    name = manifest.get("file")
    if not isinstance(name, str) or Path(name).name != name or not 0 < len(name) <= 200 or name in {".", ".."}:
        raise ArtifactError(f"{path} names the file {name!r}", hint="a payload lies beside its manifest")
    return manifest


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    """sha256 over all of a manifest but the hash itself."""
    facts = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _artifact_from(manifest: dict[str, Any], payload: Path) -> Artifact:
    where = str(payload.parent / MANIFEST)
    try:
        if manifest["kind"] not in ("checkpoint", "onnx", "engine") or not manifest["history"]:
            raise ConfigError(f"{where} has kind {manifest['kind']!r}", hint="checkpoint, onnx or engine")
        return Artifact(
            manifest["kind"],
            payload,
            manifest["sha256"],
            from_table(NetworkSpec, manifest["network"], "network"),
            from_table(ImageSpec, manifest["image"], "image"),
            tuple(from_table(Step, step, "history") for step in manifest["history"]),
        )
    except (ConfigError, KeyError, TypeError, AttributeError) as err:
        raise ArtifactError(f"{where} is malformed: {err}", hint="make the artifact again") from err


def check_replaceable(out: Path) -> None:
    """Refuse a directory that an artifact must not be written over.

    Raises:
        ArtifactError: It is a file, or holds files that are not an artifact.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ArtifactError(f"{out} is a file", hint="--out names a directory")
    if any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise ArtifactError(f"{out} holds files that are not an artifact", hint="give --out a new or empty directory")


@contextmanager
def _staging_directory(out: Path) -> Iterator[Path]:
    """A hidden directory beside ``out``, removed again unless it was renamed; ``out`` is locked meanwhile."""
    try:
        with locked(out) as is_alone:
            if is_alone:
                _clear_up(out)
            staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".staging", dir=out.parent))
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as err:
        raise ArtifactError(f"{out} cannot be written: {err}", hint="check permissions and free space") from err


def _clear_up(out: Path) -> None:
    """Remove what killed runs left beside ``out``, and put back an older artifact that one of them had set aside."""
    for stale in out.parent.glob(f".{glob.escape(out.name)}.*.staging"):
        shutil.rmtree(stale, ignore_errors=True)
    for aside in out.parent.glob(f".{glob.escape(out.name)}.old.*"):
        if not out.exists() and (aside / out.name).is_dir():
            (aside / out.name).rename(out)
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(staging: Path, out: Path) -> None:
    """Rename the finished directory; an older artifact is set aside first and removed after, or put back."""
    staging.chmod(0o755)
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent)) / out.name
    try:
        if out.exists():
            out.rename(old)
        staging.rename(out)
    except BaseException:  # Ctrl-C included: the older artifact must never be lost
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    """The value as JSON would give it back: tuples as lists, paths as text, infinity as null."""
    return json.loads(to_json(value))
