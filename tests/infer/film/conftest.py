"""Where the tests of films find what makes films."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("av", reason="films need the extra `video`")
sys.path.insert(0, str(Path(__file__).parent))
