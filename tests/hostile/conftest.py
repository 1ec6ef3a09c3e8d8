"""What the hostile tests share: forged manifests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def sign() -> Callable[[dict[str, Any]], bytes]:
    """Gives a manifest the hash that belongs to it: whoever forges one can do that too."""

    def signed(manifest: dict[str, Any]) -> bytes:
        facts = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return json.dumps(facts | {"manifest_sha256": digest}).encode()

    return signed
