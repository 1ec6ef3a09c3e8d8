"""What a release carries beside its packages: a lock file made from pip's report, and a bill of materials."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np

ROOT = Path(__file__).parent.parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "release" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bill_names_every_pinned_package() -> None:
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    text = (ROOT / "constraints.txt").read_text() + (ROOT / "requirements.lock").read_text()
    bill = script("sbom").sbom_of(text, "0.1.0")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert [part["name"] for part in bill["components"] if "hashes" not in part] == ["torch"]
    assert [f"{part['name']}=={part['version']}" for part in bill["components"]] == pinned


def test_every_pinned_package_but_torch_is_locked() -> None:
    pinned = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith(("#", "torch=="))
    ]
    locked = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert sorted(line.partition(" --hash=sha256:")[0] for line in locked) == sorted(
        line.lower().replace("_", "-") for line in pinned
    )


def test_hashes_go_from_pip_s_report_into_the_lock_file_and_the_bill() -> None:
    facts = {"name": "NumPy", "version": np.__version__}
    item = {"metadata": facts, "download_info": {"archive_info": {"hashes": {"sha256": "ab" * 32}}}}
    lock = script("lock").lock_of({"install": [item]})
    assert lock.splitlines()[-1] == f"numpy=={np.__version__} --hash=sha256:{'ab' * 32}"
    (part,) = script("sbom").sbom_of(lock, "0.1.0")["components"]
    assert part["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert "BSD" in part["licenses"][0]["license"]["name"]
