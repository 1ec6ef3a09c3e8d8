"""CUDA in the processor's memory: what the engine runner calls, so that its own logic can be tested.

Streams are queues whose work is done only when somebody waits, so a result that was not waited for is not there. A
clock stands still but for the work done: 1 ms for an upload, 5 for the network, 2 for a download.

What CUDA forbids, or answers with an error, fails the test at once: stream 0, which says nothing; waiting, allocating
or freeing while something is being captured; a handle that was never created or is gone; copies from or to what is not
device memory.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from deblur_deploy.core.errors import DeblurDeployError

ALIGNMENT = 256
UPLOAD_MS, COMPUTE_MS, DOWNLOAD_MS = 1.0, 5.0, 2.0


class StandInCuda:
    """As :class:`deblur_deploy.runtime.cuda.Cuda`, with a record of what is in use and of what was done."""

    def __init__(self, memory_bytes: int = 1 << 24) -> None:
        self.live: dict[str, set[int]] = defaultdict(set)
        self.log: list[str] = []
        self.elsewhere: dict[int, int] = {}  # addresses on other devices, for the tests to set
        self._memory: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}
        self._left = memory_bytes
        self._handles = itertools.count(1000)
        self._queues: dict[int, list[Callable[[], None]]] = defaultdict(list)
        self._times: dict[int, float] = {}
        self._blocking: dict[int, bool] = {}
        self.host_waits: list[str] = []
        self._pending_on: dict[int, int] = {}
        self._captures: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._now = 0.0

    def allocate(self, size: int) -> int:
        return self._new_memory("device", size)

    def free(self, address: int) -> None:
        self._drop_memory("device", address)

    def allocate_host(self, size: int) -> int:
        return self._new_memory("host", size)

    def free_host(self, address: int) -> None:
        self._drop_memory("host", address)

    def device_of(self, address: int) -> int | None:
        if address in self.elsewhere:
            return self.elsewhere[address]
        return 0 if any(start <= address < start + self._sizes[start] for start in self.live["device"]) else None

    def upload(self, device: int, host: int, size: int, stream: int) -> None:
        assert self.device_of(device) == 0, "an upload to what is no memory of this device"
        self._copy((device, host), size, stream, ("upload", UPLOAD_MS))

    def download(self, host: int, device: int, size: int, stream: int) -> None:
        assert self.device_of(device) == 0, "a download from what is no memory of this device"
        self._copy((host, device), size, stream, ("download", DOWNLOAD_MS))

    def create_stream(self) -> int:
        return self._new("stream")

    def destroy_stream(self, stream: int) -> None:
        assert not self._queues[stream], "a stream was destroyed with work on it"
        self._drop("stream", stream)

    def synchronize(self, stream: int) -> None:
        self._forbid_in_capture("waiting for a stream")
        self._run_all(stream)

    def _run_all(self, stream: int) -> None:
        queue = self._queues[stream]
        while queue:
            queue.pop(0)()

    def create_event(self, *, blocking: bool = False) -> int:
        event = self._new("event")
        self._blocking[event] = blocking
        return event

    def destroy_event(self, event: int) -> None:
        self._drop("event", event)

    def record(self, event: int, stream: int) -> None:
        assert event in self.live["event"], "an event that was not created, or is gone"

        def mark() -> None:
            self._times[event] = self._now
            self._pending_on.pop(event, None)

        self._pending_on[event] = stream
        self.enqueue(stream, mark)

    def synchronize_event(self, event: int) -> None:
        self._forbid_in_capture("waiting for an event")
        self.host_waits.append("asleep" if self._blocking[event] else "awake")
        while event in self._pending_on:
            self._queues[self._pending_on[event]].pop(0)()

    def wait_for(self, event: int, stream: int) -> None:
        other = self._pending_on.get(event)
        if other not in (None, stream):
            self.log.append(f"wait for {other}")

        def wait() -> None:
            if other is not None and event in self._pending_on:
                self._run_all(other)

        self.enqueue(stream, wait)

    def elapsed_ms(self, start: int, end: int) -> float:
        assert not {start, end} & self._pending_on.keys(), "the time of an event was asked before it came"
        return self._times[end] - self._times[start]

    def begin_capture(self, stream: int) -> None:
        assert stream in self.live["stream"], "only a stream that was created can be captured"
        self._captures[stream] = []

    def end_capture(self, stream: int) -> int:
        graph = self._new("graph")
        self._graphs[graph] = self._captures.pop(stream)
        self.log.append("capture")
        return graph

    def abandon_capture(self, stream: int) -> None:
        del self._captures[stream]

    def launch_graph(self, graph: int, stream: int) -> None:
        assert graph in self.live["graph"]
        self.log.append("graph")
        for work in self._graphs[graph]:
            self.enqueue(stream, work)

    def destroy_graph(self, graph: int) -> None:
        self._drop("graph", graph)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Put work on a stream, or into the graph that is being captured from it."""
        assert stream != 0, "stream 0 says nothing: give the legacy stream's handle"
        (self._captures[stream] if stream in self._captures else self._queues[stream]).append(work)

    def is_capturing(self, stream: int) -> bool:
        return stream in self._captures

    def take(self, milliseconds: float) -> None:
        self._now += milliseconds

    @property
    def leaks(self) -> dict[str, set[int]]:
        return {kind: handles for kind, handles in self.live.items() if handles}

    def _copy(self, addresses: tuple[int, int], size: int, stream: int, work: tuple[str, float]) -> None:
        (to, from_), (name, milliseconds) = addresses, work
        assert size <= min(self._sizes[to], self._sizes[from_])

        def copy() -> None:
            ctypes.memmove(to, from_, size)
            self.take(milliseconds)

        self.log.append(name)
        self.enqueue(stream, copy)

    def _forbid_in_capture(self, what: str) -> None:
        assert not self._captures, f"{what} while a graph is being captured"

    def _new(self, kind: str) -> int:
        handle = next(self._handles)
        self.live[kind].add(handle)
        return handle

    def _drop(self, kind: str, handle: int) -> None:
        self.live[kind].remove(handle)

    def _new_memory(self, kind: str, size: int) -> int:
        self._forbid_in_capture("allocating memory")
        if kind == "device" and size > self._left:
            raise DeblurDeployError("the GPU has no memory left", hint="try a smaller picture")
        self._left -= size if kind == "device" else 0
        memory = (ctypes.c_uint8 * (size + ALIGNMENT))()
        address = -(-ctypes.addressof(memory) // ALIGNMENT) * ALIGNMENT
        self._memory[address], self._sizes[address] = memory, size
        self.live[kind].add(address)
        return address

    def _drop_memory(self, kind: str, address: int) -> None:
        self._forbid_in_capture("freeing memory")
        self.live[kind].remove(address)
        self._left += self._sizes.pop(address) if kind == "device" else 0
        self._memory.pop(address)
