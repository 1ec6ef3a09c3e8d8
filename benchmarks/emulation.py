"""What is proven of the CUDA kernel on a processor, by tests that run it there."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_proofs import ProofByTests, run_tests
from measurement import Measurement

_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Emulation:
    """Claims that tests prove without a GPU.

    Args:
        tests: What they prove.
    """

    tests: tuple[ProofByTests, ...]

    def measure(self) -> Measurement:
        """Number of claims that are not proven."""
        found = [run_tests(proof, _TIMEOUT_S) for proof in self.tests]
        table = {
            "headings": ["claim", "", "found"],
            "rows": [[proof.claim, one.verdict, one.found] for proof, one in zip(self.tests, found, strict=True)],
        }
        proven = sum(one.verdict == "proven" for one in found)
        note = f"{proven} of {len(found)} claims proven"
        return Measurement(float(len(found) - proven), "not proven", {}, note, {"table": table})
