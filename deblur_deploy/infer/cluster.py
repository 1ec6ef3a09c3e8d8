"""The same work on many machines: Ray starts one network per worker, and each file goes to a worker that is free.

Inputs, results and the artifact are read and written by the workers, so every machine has to see them under the same
paths. When a worker dies, another one starts its file again; only complete files ever appear.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from deblur_deploy import __version__
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, DeblurDeployError, MissingDependencyError
from deblur_deploy.infer.bad_files import as_own_error
from deblur_deploy.infer.done_log import DoneLog, Fingerprint
from deblur_deploy.infer.jobs import Job
from deblur_deploy.infer.one_file import Restored, restore_file
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.run import FileResult, InferReport, Notify, Progress, done_result, failed_result, settings_of
from deblur_deploy.infer.settings import InferConfig
from deblur_deploy.runtime.runner import Runner, default_runtime, open_runner
from deblur_deploy.runtime.runtimes import RUNTIMES

try:
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError
except ModuleNotFoundError as err:
    raise MissingDependencyError("--engine ray needs Ray", hint="pip install 'deblur-deploy[ray]'") from err

ATTEMPTS = 3
"""How many workers may die on one file before that file counts as failed."""

_STORE_BYTES = 80_000_000
"""Ray's shared memory on this machine: only names and figures go through it."""


@dataclass(frozen=True)
class ClusterConfig:
    """Where and how workers run.

    Args:
        workers: Networks at the same time, or None for one per machine of the cluster.
        runtime: As in :func:`open_runner`.
        threads: Processor threads of each worker, or None for its share of its machine.
    """

    workers: int | None = None
    runtime: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}", hint="give 1 or more")


@dataclass(frozen=True)
class NetworkFacts:
    """What one worker found out about the network, so that all of them plan the same tiles.

    Args:
        runtime: What the network runs on.
        available_bytes: Memory that the network leaves.
        known: Measurements (see :class:`Restorer`).
    """

    runtime: str
    available_bytes: int
    known: dict[str, int]


class Worker:
    """The network on one worker. It is opened at the first call, so that a failure is reported as an error of ours.

    Args:
        artifact: The network.
        config: How files are restored.
        cluster: Runtime and threads.
    """

    def __init__(self, artifact: Artifact, config: InferConfig, cluster: ClusterConfig) -> None:
        self._artifact, self._config, self._cluster = artifact, config, cluster
        self._runner: Runner | None = None
        self._restorer: Restorer | None = None

    def measure(self) -> NetworkFacts | DeblurDeployError:
        """What there is to know about the network before the first file."""
        try:
            runner = self._opened()
            restorer = Restorer(runner, self._config.restore)
        except DeblurDeployError as err:
            return err
        return NetworkFacts(runner.name, restorer.available_bytes, restorer.known)

    def restore(self, job: Job, facts: NetworkFacts) -> Outcome:
        """Restore one file."""
        try:
            if self._restorer is None:
                given = self._config.restore
                config = dataclasses.replace(given, max_memory=facts.available_bytes, count_process=False)
                self._restorer = Restorer(self._opened(), config, dict(facts.known))
            restored = restore_file(job, self._restorer, self._config)
        except Exception as err:
            return Outcome(error=as_own_error(err, job.source))
        return Outcome(restored, seams=self._restorer.seams)

    def _opened(self) -> Runner:
        """The network, open as long as the worker lives."""
        if self._runner is None:
            self._runner = open_runner(self._artifact, self._cluster.runtime, self._cluster.threads).__enter__()
        return self._runner


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back: what it did, or what failed.

    Args:
        restored: What was done.
        error: What failed.
        seams: Why borders of tiles show, or an empty text (see :class:`Restorer`).
    """

    restored: Restored | None = None
    error: DeblurDeployError | None = None
    seams: str = ""


class ClusterRunner(AbstractContextManager["ClusterRunner"]):
    """Restores files into one folder as :class:`FileRunner` does, on a Ray cluster.

    The cluster is the one that ``RAY_ADDRESS`` names; without it, one is started on this machine and ended on leaving.

    Args:
        artifact: The network.
        out: Folder for results and for the done log.
        config: How; the memory is that of each worker.
        cluster: Workers.

    Raises:
        ConfigError: The cluster has too few processors or graphics cards for so many workers.
        ArtifactError: The done log cannot be read.
        DeblurDeployError: The workers cannot open the network.
    """

    def __init__(self, artifact: Artifact, out: Path, config: InferConfig, cluster: ClusterConfig) -> None:
        self.seams = ""
        self.deaths = 0
        self._config = config
        self._starts_ray = not ray.is_initialized()
        if self._starts_ray:
            _start_ray(cluster.workers or 1)
        known = RUNTIMES.get(cluster.runtime or default_runtime(artifact))  # of another the first worker complains
        on_gpu = known is not None and known.needs_gpu
        try:
            self._workers, options = _share_out(cluster, on_gpu)
            threads = cluster.threads or int(options["num_cpus"])
            # Workers need not be in this process's directory.
            placed = dataclasses.replace(artifact, path=artifact.path.absolute())
            arguments = (placed, config, ClusterConfig(self._workers, cluster.runtime, threads))
            remote = ray.remote(**options)(Worker)
            self._new_worker: Callable[[], Any] = lambda: remote.remote(*arguments)
            first = self._new_worker()
            self._facts = self._measure(artifact, out, first)
            self._idle = [first, *(self._new_worker() for _ in range(self._workers - 1))]
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.report = InferReport(str(artifact.directory), self._facts.runtime)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._starts_ray:
            ray.shutdown()

    def _measure(self, artifact: Artifact, out: Path, worker: Any) -> NetworkFacts:
        """Ask a worker about the network, and read the done log, whose fingerprint names the runtime."""
        try:
            facts = ray.get(worker.measure.remote())
        except RayActorError as err:
            raise ArtifactError(
                f"the first worker died while it opened the network: {err}", hint="check the memory of its machine"
            ) from err
        if isinstance(facts, DeblurDeployError):
            raise facts
        fingerprint = Fingerprint(artifact.sha256, facts.runtime, __version__, settings_of(self._config))
        self._done_log = DoneLog(out, fingerprint)
        return NetworkFacts(facts.runtime, facts.available_bytes, facts.known | self._done_log.measured)

    def run(self, jobs: Sequence[Job], notify: Notify) -> None:
        """Restore files; failures go into the report, and the other files go on.

        Raises:
            ArtifactError: The done log cannot be written.
        """
        started = time.perf_counter()
        waiting = deque((job, 1) for job in jobs if self._is_due(job, notify))
        running: dict[Any, tuple[Job, int, Any]] = {}
        while waiting or running:
            while waiting and self._idle:
                job, attempt = waiting.popleft()
                worker = self._idle.pop()
                running[worker.restore.remote(_absolute(job), self._facts)] = job, attempt, worker
            (finished,), _ = ray.wait(list(running), num_returns=1)
            job, attempt, worker = running.pop(finished)
            outcome = self._outcome(finished)
            self._idle.append(worker if outcome is not None else self._new_worker())
            if outcome is None and attempt < ATTEMPTS:
                waiting.appendleft((job, attempt + 1))
            else:
                self._finish(job, outcome or Outcome(error=_given_up(job)), notify)
        self.report.seconds += time.perf_counter() - started

    def _is_due(self, job: Job, notify: Notify) -> bool:
        """Whether a job is to be done; otherwise its outcome is noted."""
        if job.conflict is not None:
            self._note(job, failed_result(job, job.conflict), notify)
            return False
        try:
            if self._config.resume and self._done_log.is_done(job.name, job.source, job.target):
                self._note(job, FileResult(str(job.source), str(job.target), "skipped"), notify)
                return False
        except Exception as err:
            self._note(job, failed_result(job, as_own_error(err, job.source)), notify)
            return False
        return True

    def _outcome(self, reference: Any) -> Outcome | None:
        """What a worker sent, or None where it died."""
        try:
            outcome: Outcome = ray.get(reference)
        except (RayActorError, OutOfMemoryError):
            self.deaths += 1
            return None
        return outcome

    def _finish(self, job: Job, outcome: Outcome, notify: Notify) -> None:
        self.seams = self.seams or outcome.seams
        if outcome.restored is None:
            error = outcome.error or _given_up(job)
            return self._note(job, failed_result(job, error), notify)
        if outcome.restored.ended_early is None:
            self._done_log.add(job.name, outcome.restored.input_hash, job.target)
        self._done_log.remember(self._facts.known)
        return self._note(job, done_result(job, outcome.restored), notify)

    def _note(self, job: Job, result: FileResult, notify: Notify) -> None:
        self.report.files.append(result)
        notify(Progress(job, result.frames, result.frames, result))


def _given_up(job: Job) -> DeblurDeployError:
    return ArtifactError(
        f"{job.source}: {ATTEMPTS} workers died over it", hint="give workers more memory, or less of it to --max-memory"
    )


def _absolute(job: Job) -> Job:
    """The job with absolute paths, which are valid in the workers' directories too."""
    return Job(job.source.absolute(), job.target.absolute(), job.name)


def _start_ray(workers: int) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start one here. Ray's usage reports are off unless asked for."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
        return
    processors = max(workers, os.cpu_count() or 1)
    ray.init(num_cpus=processors, include_dashboard=False, object_store_memory=_STORE_BYTES, log_to_driver=False)


def _share_out(cluster: ClusterConfig, on_gpu: bool) -> tuple[int, dict[str, Any]]:
    """How many workers there are, and what Ray sets aside for each: a share of its machine, on GPUs one card."""
    resource = "GPU" if on_gpu else "CPU"
    amounts = [node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]]
    machines = [int(amount) for amount in amounts if amount >= 1]
    workers = cluster.workers or max(1, len(machines))
    if workers > sum(machines):
        raise ConfigError(
            f"{workers} workers need {workers} {resource}s, and the cluster has {sum(machines)}",
            hint="give fewer --workers, or add machines to the cluster",
        )
    if on_gpu:
        return workers, {"num_cpus": 1, "num_gpus": 1, "scheduling_strategy": "SPREAD"}
    each = next(share for share in range(max(machines), 0, -1) if sum(count // share for count in machines) >= workers)
    return workers, {"num_cpus": each, "scheduling_strategy": "SPREAD"}
