r"""Write ``requirements.lock``: every pinned package with the hash of its file, from a report of pip.

torch is left out, whose builds for processors and for CUDA are different files of one version. The hashes are those of
the files for Linux on x86-64 with Python 3.11, on which the versions are tested together.

    grep -v '^#\|^torch==' constraints.txt > pins.txt
    pip install --dry-run --no-deps --ignore-installed --report report.json -r pins.txt
    python release/lock.py report.json > requirements.lock
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_HEADING = """# Made by release/lock.py for Linux on x86-64 and Python 3.11. Install torch first, then:
# pip install --require-hashes --no-deps -r requirements.lock
"""


def lock_of(report: dict[str, Any]) -> str:
    """The lock file for a report of ``pip install --report`` (pip's installation report, version 1)."""
    lines = []
    for item in report["install"]:
        name, version = item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"]
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} --hash=sha256:{sha256}\n")
    return _HEADING + "".join(sorted(lines))


if __name__ == "__main__":
    sys.stdout.write(lock_of(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
