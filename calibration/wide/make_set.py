"""Rebuilds the set `wide`: images/, set.toml and LICENCES.md, from the evaluation photographs of the set `photos`.

Each photograph is blurred once by `deblur_deploy.data.camera` with the settings below and a seed that depends on its
name alone. The pictures are kept as files, since another version of OpenCV may round single codes otherwise.

Run `python make_set.py` in an environment that has deblur-deploy and OpenCV.
"""

import hashlib
import json
import tomllib
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from deblur_deploy.config import CameraConfig
from deblur_deploy.core.images import load_rgb
from deblur_deploy.data.camera import expose
from deblur_deploy.data.pairs import sharp_files

HERE = Path(__file__).parent
SEED = 2026
BLUR = CameraConfig(length_px=(4.0, 20.0))
"""Up to 20 px in pictures of 640x360, which is 40 px at 1280x720."""

DESCRIPTION = (
    "The evaluation photographs of `photos` with blur as cameras make it: longer paths, objects that move, depth, "
    "averages in code values and in linear light, noise, sharpening and JPEG."
)
NOTICE = """# Licences of the photographs

`make_set.py` writes this file.

**Changes:** every picture in `images/` is the picture of the same name in `../photos/images/`, blurred. Each is under
the licence of its photograph; title, source and original are in [that set's list](../photos/LICENCES.md). The authors
do not endorse this project.

| file | author | licence |
|---|---|---|
"""


def main() -> None:
    """Blur the photographs and write the three files."""
    (HERE / "images").mkdir(exist_ok=True)
    described = {entry["file"]: entry for entry in _described()}
    lines, rows = [f'name = "wide"\ndescription = {json.dumps(DESCRIPTION)}\nsharp_set = "photos"\n'], []
    for path in sharp_files(None, "evaluation"):
        rng = np.random.default_rng([SEED, zlib.crc32(path.name.encode())])
        target = HERE / "images" / path.name
        Image.fromarray(expose(load_rgb(path), BLUR, rng).blurred).save(target, optimize=True)
        entry = described[f"images/{path.name}"]
        facts = {
            "file": entry["file"],
            "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
            "split": "evaluation",
            "width": entry["width"],
            "height": entry["height"],
            "title": entry["title"],
            "author": entry["author"],
            "licence": entry["licence"],
        }
        lines.append("\n[[image]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in facts.items()))
        rows.append(f"| {entry['file']} | {entry['author']} | {entry['licence']} |\n")
    (HERE / "set.toml").write_text("".join(lines), encoding="utf-8")
    (HERE / "LICENCES.md").write_text(NOTICE + "".join(rows), encoding="utf-8")


def _described() -> list[dict[str, str | int]]:
    return list(tomllib.loads((HERE.parent / "photos" / "set.toml").read_text(encoding="utf-8"))["image"])


if __name__ == "__main__":
    main()
