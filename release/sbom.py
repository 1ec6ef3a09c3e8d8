"""Write a software bill of materials in CycloneDX's JSON (version 1.5): what is tested together.

The versions are those of ``constraints.txt``; ``requirements.lock`` adds the hashes of the files.

python release/sbom.py constraints.txt requirements.lock > dist/sbom.json
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_LINE = re.compile(r"(?P<name>[^=\s]+)==(?P<version>\S+)(?: --hash=sha256:(?P<sha256>[0-9a-f]{64}))?")


def sbom_of(pins: str, version: str) -> dict[str, Any]:
    """The bill for pinned packages.

    Args:
        pins: Lines of ``constraints.txt``, ``requirements.lock``, or both; of a package's lines the last one counts.
        version: Version of deblur-deploy.
    """
    found = [line.groupdict() for line in map(_LINE.fullmatch, pins.splitlines()) if line]
    parts = {_normal(part["name"]): part for part in found}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "deblur-deploy", "version": version}},
        "components": [_component(**part) for part in parts.values()],
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


def _normal(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{_normal(name)}@{version}"


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
    pins = "".join(Path(name).read_text(encoding="utf-8") for name in sys.argv[1:])
    bill = sbom_of(pins, metadata.version("deblur-deploy"))
    sys.stdout.write(json.dumps(bill, indent=2) + "\n")
