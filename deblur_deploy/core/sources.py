"""Finding the artifact that a command should work on, and the data that the project ships."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from deblur_deploy.core.artifact import MANIFEST, Artifact, load_artifact
from deblur_deploy.core.errors import ArtifactError


def shipped(folder: Literal["models", "calibration"]) -> Path:
    """A data folder that the project ships: in the checkout, else inside the installed package.

    Raises:
        ArtifactError: Neither is there.
    """
    package = Path(__file__).parents[1]
    # Beside an installed package, a folder of that name would be somebody else's.
    checkout = package.parent if (package.parent / "pyproject.toml").is_file() else package
    for root in (checkout, package / "_data"):
        if (root / folder).is_dir():
            return root / folder
    raise ArtifactError(f"the shipped folder {folder!r} is missing", hint="install deblur-deploy again")


def find_artifacts(runs: Path) -> list[Artifact]:
    """All whole artifacts below a directory, oldest first; damaged ones are passed over here and named when opened."""
    found = []
    for manifest in sorted(runs.rglob(MANIFEST)):
        if any(part.startswith(".") for part in manifest.relative_to(runs).parts):
            continue
        try:
            found.append(load_artifact(manifest.parent))
        except ArtifactError:
            continue
    return sorted(found, key=lambda artifact: artifact.history[-1].created)


def resolve_source(source: Path | None, runs: Path, fits: Callable[[Artifact], bool]) -> tuple[Artifact, str]:
    """Find the artifact that a command should work on.

    Args:
        source: What the user named, or None.
        runs: Where to look for the newest fitting artifact.
        fits: Whether an artifact can be the source.

    Returns:
        The artifact and why it was taken, as a phrase.

    Raises:
        ArtifactError: The named artifact is unusable or does not fit.
    """
    if source is not None:
        artifact = load_artifact(source)
        if not fits(artifact):
            raise ArtifactError(
                f"{source} is {describe(artifact)}, which this stage cannot start from",
                hint="`deblur-deploy inspect` says what an artifact is; without SOURCE the newest fitting one is taken",
            )
        return artifact, "named on the command line"
    fitting = [artifact for artifact in find_artifacts(runs) if fits(artifact)]
    if fitting:
        newest = fitting[-1]
        later = newest.history[-1].created > datetime.now(UTC).isoformat()
        note = ", dated later than this machine's clock: name another if that is wrong" if later else ""
        return newest, f"newest fitting artifact under {runs}{note}"
    return shipped_generator(), "the shipped generator"


def describe(artifact: Artifact) -> str:
    """An artifact in a few words, such as ``a quantized checkpoint from qat``."""
    if artifact.kind == "engine":
        return f"an engine for {artifact.figures['target']}"
    precision = "a quantized" if artifact.network.quantization else "a float"
    return f"{precision} {artifact.kind} from {artifact.stage}"


def shipped_generator() -> Artifact:
    """The trained generator that the project ships."""
    return load_artifact(shipped("models") / "srn-demo")
