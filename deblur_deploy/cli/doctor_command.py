"""``deblur-deploy doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deblur_deploy.bench.device import device_facts
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.options import Json
from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.core.threads import SHARED, BusyWatch, usable_cores
from deblur_deploy.runtime.nvidia import count_nvidia_gpus, find_gpu
from deblur_deploy.runtime.runner import runtime_states

_WATCH_S = 0.5

PACKAGE = "deblur-deploy"


def command(as_json: Json = False) -> None:
    """Say what this machine can do, what it lacks, and the command that fixes it. Packages that clash are an error."""
    output = Output(as_json)
    facts, gpu, extras, clashes = device_facts(), find_gpu(), check_extras(), find_clashes()
    states, busy = runtime_states(), BusyWatch().busy_cores(_WATCH_S)
    sets = " ".join(facts["instruction_sets"]) or "no vector instructions that matter here"
    output.say(f"processor {facts['cpu']}, cores: {facts['cores']}, {facts['memory_gib']:g} GiB, {sets}")
    if busy is not None and busy >= SHARED:
        output.say(f"shared    {_shared(busy)}")
    output.say(f"gpu       {f'{gpu.name}, {gpu.sm}, CUDA {gpu.driver_cuda}' if gpu else _no_gpu()}\n")
    for line in _lines({extra.name: _state(extra) for extra in extras}, "extra"):
        output.say(line)
    output.say("")
    for line in _lines({name: state or "ready" for name, state in states.items()}, "runtime"):
        output.say(line)
    output.emit(
        {
            "device": facts,
            "busy_cores": None if busy is None else round(busy, 2),
            "gpu": vars(gpu) if gpu else None,
            "extras": {extra.name: list(extra.lacking) for extra in extras},
            "runtimes": states,
            "clashes": [clash.message for clash in clashes],
        }
    )
    if clashes:
        raise MissingDependencyError(clashes[0].message, hint=clashes[0].mend(gpu is not None))


def _shared(busy: float) -> str:
    """What other programs' load on this machine means for the commands."""
    return (
        f"other processes keep {busy:.1f} of {usable_cores()} cores busy: threads sleep while they wait, and figures "
        "of `bench` are unsteady; to keep one core: OMP_NUM_THREADS=1 taskset -c NUMBER deblur-deploy ..."
    )


def _state(extra: Extra) -> str:
    return f"lacks {', '.join(extra.lacking)}; {extra.install}" if extra.lacking else "complete"


def _lines(states: Mapping[str, str], title: str) -> list[str]:
    """One line for each state, with everything in that state."""
    names: dict[str, list[str]] = {}
    for name, state in states.items():
        names.setdefault(state.removeprefix(f"{name} "), []).append(name)
    return [f"{title.ljust(9)} {', '.join(alike)}: {state}" for state, alike in names.items()]


def _no_gpu() -> str:
    return "none: there is no NVIDIA driver" if count_nvidia_gpus() is None else "none that the driver finds"


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
        """The command that fixes it: removes all of them and installs the one for this machine."""
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
