"""Imported first by the programs of this folder: they run from a checkout that is not installed, too."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

for _folder in (ROOT / "benchmarks", ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))
