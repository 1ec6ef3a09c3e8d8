"""Write a software bill of materials in CycloneDX's JSON (version 1.5): what is tested together.

From ``requirements.lock`` it has the hashes of the files too.

python release/sbom.py constraints.txt > dist/sbom.json
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_LINE = re.compile(r"(?P<name>[^=\s]+)==(?P<version>\S+)(?: --hash=sha256:(?P<sha256>[0-9a-f]{64}))?")


def sbom_of(lock: str, version: str) -> dict[str, Any]:
    """The bill for pinned packages.

    Args:
        lock: Text of ``constraints.txt`` or ``requirements.lock``.
        version: Version of deblur-deploy.
    """
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "deblur-deploy", "version": version}},
        "components": [_component(**found.groupdict()) for found in map(_LINE.fullmatch, lock.splitlines()) if found],
    }


def _component(name: str, version: str, sha256: str | None) -> dict[str, Any]:
    licenses = {"licenses": [{"license": {"name": text}}]} if (text := _license(name, version)) else {}
    return {
        "type": "library",
        "name": name,
        "version": version,
        "purl": _purl(name, version),
        **({"hashes": [{"alg": "SHA-256", "content": sha256}]} if sha256 else {}),
        **licenses,
    }


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _license(name: str, version: str) -> str | None:
    """What the installed package says of its licence, if that version is installed."""
    try:
        facts = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if facts["Version"] != version:
        return None
    named = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or () if line.startswith("License ::")]
    return facts["License-Expression"] or ", ".join(named) or None


if __name__ == "__main__":
    bill = sbom_of(Path(sys.argv[1]).read_text(encoding="utf-8"), metadata.version("deblur-deploy"))
    sys.stdout.write(json.dumps(bill, indent=2) + "\n")
