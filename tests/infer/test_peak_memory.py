"""Pictures of 2 to 100 megapixels through ``infer``, each in a process of its own: memory stays within the budget.

PNG and TIFF are restored in rows and take as much at 100 megapixels as at 25; a JPEG is held while it is restored.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.infer.memory import parse_memory

BUDGET, IN_ROWS = "2GB", "1GB"
CASES = [(2, ".png"), (10, ".png"), (24, ".png"), (50, ".png"), (100, ".png")]
CASES += [(10, ".tif"), (100, ".tif"), (10, ".jpg"), (100, ".jpg")]
MEASURE = """
import sys
from deblur_deploy.cli.dispatch import run_command
from deblur_deploy.core.process_memory import peak_resident_bytes
code = run_command("infer", sys.argv[1:])
print(peak_resident_bytes(), file=sys.stderr)  # not getrusage, which counts what the parent had before it
raise SystemExit(code)
"""


def gradient(width: int, height: int) -> Image.Image:
    """A picture that is quick to encode: (height, width, 3) uint8."""
    x, y = np.arange(width, dtype=np.uint32), np.arange(height, dtype=np.uint32)[:, None]
    planes = [(x * 255 // width) + 0 * y, (y * 255 // height) + 0 * x, (x // 64 + y // 64) * 32 % 256]
    return Image.fromarray(np.stack([plane.astype(np.uint8) for plane in planes], axis=2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("megapixels", "suffix"), CASES)
def test_the_process_stays_within_the_budget(
    megapixels: int, suffix: str, one_convolution: Artifact, tmp_path: Path
) -> None:
    height = int((megapixels * 1e6 * 2 / 3) ** 0.5)
    width = round(megapixels * 1e6 / height)
    options = {".png": {"compress_level": 1}, ".tif": {"compression": "tiff_lzw"}, ".jpg": {"quality": 90}}
    name = f"in{suffix}"
    gradient(width, height).save(tmp_path / name, **options[suffix])  # type: ignore[arg-type]
    given = (
        one_convolution.path.parent,
        tmp_path / name,
        "--out",
        tmp_path / "out",
        "--max-memory",
        BUDGET,
        "--json",
    )
    command = [sys.executable, "-c", MEASURE, *map(str, given)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    peak = int(ended.stderr.splitlines()[-1])
    (done,) = json.loads(ended.stdout)["files"]
    print(f"{suffix} {width}x{height}: {peak / 1e6:.0f} MB, {done['tiles']} tiles")
    with Image.open(tmp_path / "out" / name) as restored:
        assert restored.size == (width, height)
    assert peak <= parse_memory(BUDGET if suffix == ".jpg" else IN_ROWS)
