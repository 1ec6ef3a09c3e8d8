"""``deblur-deploy doctor``."""

from __future__ import annotations

from collections.abc import Mapping

from deblur_deploy.bench.device import device_facts
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.installation import Extra, check_extras, find_clashes
from deblur_deploy.cli.options import Json
from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.core.threads import SHARED, BusyWatch, usable_cores
from deblur_deploy.runtime.nvidia import count_nvidia_gpus, find_gpu
from deblur_deploy.runtime.runner import runtime_states

_WATCH_S = 0.5


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
    """What a machine on which others compute means for the commands."""
    return (
        f"other processes keep {busy:.1f} of {usable_cores()} cores busy: threads sleep while they wait, and figures "
        "of `bench` are unsteady; a core of one's own: OMP_NUM_THREADS=1 taskset -c NUMBER deblur-deploy ..."
    )


def _state(extra: Extra) -> str:
    return f"lacks {', '.join(extra.lacking)}; {extra.install}" if extra.lacking else "complete"


def _lines(states: Mapping[str, str], title: str) -> list[str]:
    """What is said of the same kind of thing, those of one state together."""
    names: dict[str, list[str]] = {}
    for name, state in states.items():
        names.setdefault(state.removeprefix(f"{name} "), []).append(name)
    return [f"{title.ljust(9)} {', '.join(alike)}: {state}" for state, alike in names.items()]


def _no_gpu() -> str:
    return "none: there is no NVIDIA driver" if count_nvidia_gpus() is None else "none that the driver finds"
