"""What is installed: which extras are complete, and which packages overwrite each other's files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "deblur-deploy"


@dataclass(frozen=True)
class Extra:
    """One of the package's extras.

    Args:
        name: As in ``pip install 'deblur-deploy[name]'``.
        lacking: Requirements that are not met, with the version that is there instead, such as
            ``torch>=2.6 (2.1.0 is installed)``.
    """

    name: str
    lacking: tuple[str, ...]

    @property
    def install(self) -> str:
        """The command that installs what is lacking."""
        return f"pip install '{PACKAGE}[{self.name}]'"


@dataclass(frozen=True)
class Clash:
    """Distributions that install into one folder: the later one has overwritten files of the earlier.

    Args:
        module: The folder, as it is imported.
        distributions: Their names.
    """

    module: str
    distributions: tuple[str, ...]

    @property
    def message(self) -> str:
        """What is wrong, in a sentence."""
        return f"{' and '.join(self.distributions)} install into the same folder, {self.module}, and break each other"

    def mend(self, has_gpu: bool) -> str:
        """The command that fixes it: it removes all of them and installs the one for this machine."""
        suited = [name for name in self.distributions if name.endswith("-gpu") == has_gpu] or self.distributions
        return f"pip uninstall -y {' '.join(self.distributions)}; pip install {suited[0]}"


def check_extras() -> list[Extra]:
    """Every extra that the installed package declares, in alphabetical order."""
    names = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    return [Extra(name, tuple(_lacking(name))) for name in sorted(names)]


def find_clashes(modules: tuple[str, ...] = ("onnxruntime",)) -> list[Clash]:
    """Modules that several distributions have brought.

    Args:
        modules: Those to look at; namespace packages, which many share on purpose, do not belong here.
    """
    brought_by = metadata.packages_distributions()
    named = {module: sorted(set(brought_by.get(module, []))) for module in modules}
    return [Clash(module, tuple(found)) for module, found in named.items() if len(found) > 1]


def _lacking(extra: str) -> Iterator[str]:
    """Unmet requirements of an extra, with those of the extras that it takes in."""
    for line in metadata.requires(PACKAGE) or []:
        requirement = Requirement(line)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if canonicalize_name(requirement.name) == PACKAGE:
            for inner in sorted(requirement.extras):
                yield from _lacking(inner)
        elif complaint := _complaint(requirement):
            yield complaint


def _complaint(requirement: Requirement) -> str | None:
    """Why a requirement is not met, or None where it is."""
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return wanted
    fits = requirement.specifier.contains(found, prereleases=True)
    return None if fits else f"{wanted} ({found} is installed)"
