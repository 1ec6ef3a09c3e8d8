"""Where the published sets of blurred and sharp photographs keep their files.

Recognised by what is in the folder:

- GoPro (Nah et al., 2017): ``train|test/SEQ/{blur,sharp}/``, where ``blur_gamma`` is left out; the copies with
  ``{train,test}/{input,target}/``; and flat ``{blur,sharp}/``;
- RealBlur-J and -R (Rim et al., 2020): ``sceneNNN/{blur/blur_K,gt/gt_K}.png``, split by
  ``RealBlur_*_{train,test}_list.txt`` in the folder or beside it, where there are any;
- HIDE (Shen et al., 2019): ``train/``, ``test/test-close-ups/``, ``test/test-long-shot/``, and ``GT/`` for all of them;
- REDS (Nah et al., 2019): ``{train,val}/{train,val}_{blur,sharp}/SEQ/``, or those two folders by themselves;
- plain folders of equal file names, under any of those pairs of names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.formats import is_picture
from deblur_deploy.core.images import list_images

Split = Literal["evaluation", "calibration"]

_SPLIT_FOLDERS: dict[Split, str] = {"evaluation": "test", "calibration": "train"}
_REDS_FOLDERS: dict[Split, str] = {"evaluation": "val", "calibration": "train"}
_PARTNER_FOLDERS = (("blur", "sharp"), ("input", "target"), ("blur", "gt"))


@dataclass(frozen=True)
class PairFiles:
    """A blurred photograph and its sharp partner on disk.

    Args:
        name: Sequence or scene, and file name.
        blurred: The blurred file.
        sharp: The sharp file.
    """

    name: str
    blurred: Path
    sharp: Path


def find_pairs(folder: Path, split: Split) -> list[PairFiles]:
    """The pairs of one split of a folder.

    Args:
        folder: One of the layouts above.
        split: ``calibration`` is what to train on (``train/``), ``evaluation`` what to measure on (``test/``); a folder
            without splits is taken whole.

    Returns:
        Pairs by name; none if the folder is of another kind.

    Raises:
        ArtifactError: A file has no partner, the folder mixes splits, or it lacks this one.
    """
    if not folder.is_dir():
        return []
    if listed := _listed(folder, split):
        return listed
    other: Split = "evaluation" if split == "calibration" else "calibration"
    if _listed(folder, other):  # taking all of it would mix the splits
        wanted, present = _SPLIT_FOLDERS[split], _SPLIT_FOLDERS[other]
        raise ArtifactError(
            f"{folder} has a RealBlur list of its {present} pairs and none of its {wanted} pairs",
            hint=f"put RealBlur*_{wanted}_list.txt beside it",
        )
    if films := _reds(folder, split):
        return films
    splits = {name for name in _SPLIT_FOLDERS.values() if (folder / name).is_dir()}
    if not splits:
        return sorted(_below(folder), key=lambda pair: pair.name)
    wanted = _SPLIT_FOLDERS[split]
    _check_unmixed(folder, splits)
    if wanted not in splits:
        raise ArtifactError(
            f"{folder} has no {wanted}/, only {', '.join(sorted(splits))}/",
            hint=f"add {wanted}/, or name {folder / min(splits)} itself if that is what you mean",
        )
    if (folder / "GT").is_dir():
        return _hide(folder, wanted)
    return sorted(_below(folder / wanted), key=lambda pair: pair.name)


def films_of(pairs: Sequence[PairFiles]) -> dict[str, list[PairFiles]]:
    """Pairs that are consecutive frames, by the sequence that they are of; a folder without sequences is one."""
    films: dict[str, list[PairFiles]] = {}
    for pair in pairs:
        films.setdefault(pair.name.rpartition("/")[0] or pair.blurred.parent.parent.name, []).append(pair)
    return films


def _check_unmixed(folder: Path, splits: set[str]) -> None:
    """Refuse a folder whose photographs lie beside its splits: it is unclear which split they belong to."""
    loose = [path for path in folder.iterdir() if _is_image(path)]
    loose += [folder / name for pair in _PARTNER_FOLDERS for name in pair if (folder / name).is_dir()]
    beside = (path for path in folder.iterdir() if path.is_dir() and path.name not in splits)
    loose += [path for path in beside if _partner_names(path)]
    if loose:
        raise ArtifactError(
            f"{folder} mixes splits: {min(loose)} lies beside {' and '.join(f'{name}/' for name in sorted(splits))}",
            hint="move it into the split that it belongs to, or name the split's own folder",
        )


def _below(folder: Path) -> Iterator[PairFiles]:
    """Pairs of the folder itself, or of every sequence in it."""
    if names := _partner_names(folder):
        yield from _matched(folder, *names, prefix="")
        return
    for sequence in sorted(path for path in folder.iterdir() if path.is_dir()):
        if names := _partner_names(sequence):
            yield from _matched(sequence, *names, prefix=f"{sequence.name}/")
        elif (sequence / "blur").is_dir():
            raise ArtifactError(f"{sequence / 'blur'} has no sharp/ or gt/ beside it", hint="restore the set")


def _partner_names(folder: Path) -> tuple[str, str] | None:
    return next((pair for pair in _PARTNER_FOLDERS if all((folder / name).is_dir() for name in pair)), None)


def _matched(folder: Path, blurred_name: str, sharp_name: str, prefix: str) -> Iterator[PairFiles]:
    """Files of two folders in one that belong together."""
    return _matched_files(folder / blurred_name, folder / sharp_name, prefix)


def _matched_files(blurred_folder: Path, sharp_folder: Path, prefix: str) -> Iterator[PairFiles]:
    """Files of two folders that belong together: of equal names, but for RealBlur's prefixes."""
    blurred = {path.name.removeprefix("blur_"): path for path in list_images(blurred_folder)}
    sharp = {path.name.removeprefix("gt_"): path for path in list_images(sharp_folder)}
    if unpaired := sorted(blurred.keys() ^ sharp.keys()):
        name = unpaired[0]
        present, absent = (blurred, sharp_folder) if name in blurred else (sharp, blurred_folder)
        raise ArtifactError(
            f"{present[name]} has no partner in {absent}",
            hint=f"{blurred_folder.name}/ and {sharp_folder.name}/ need files of equal names",
        )
    for name in sorted(blurred):
        yield PairFiles(f"{prefix}{blurred[name].name}", blurred[name], sharp[name])


def _hide(folder: Path, split: str) -> list[PairFiles]:
    """HIDE: the sharp photographs of both splits lie in one folder."""
    pairs = []
    for blurred in sorted((folder / split).rglob("*")):
        if not _is_image(blurred):
            continue
        sharp = folder / "GT" / blurred.name
        if not sharp.is_file():
            raise ArtifactError(f"{blurred} has no partner in {folder / 'GT'}", hint="GT/ needs a file of equal name")
        pairs.append(PairFiles(blurred.relative_to(folder / split).as_posix(), blurred, sharp))
    return pairs


def _reds(folder: Path, split: Split) -> list[PairFiles]:
    """REDS: the sequences of a split, blurred and sharp in two folders; none if the folder is of another kind.

    Raises:
        ArtifactError: It has the other split alone, or a sequence lacks its partner.
    """
    found: dict[str, Path] = {}
    for name in _REDS_FOLDERS.values():
        for place in (folder, folder / name):
            if all((place / f"{name}_{kind}").is_dir() for kind in ("blur", "sharp")):
                found[name] = place
    if not found:
        return []
    wanted = _REDS_FOLDERS[split]
    if wanted not in found:
        raise ArtifactError(
            f"{folder} has no {wanted}_blur/ and {wanted}_sharp/, only {min(found)}_blur/ and {min(found)}_sharp/",
            hint=f"add {wanted}/, or rename the two folders to blur/ and sharp/",
        )
    blurred, sharp = (found[wanted] / f"{wanted}_{kind}" for kind in ("blur", "sharp"))
    pairs: list[PairFiles] = []
    for sequence in sorted(path for path in blurred.iterdir() if path.is_dir()):
        if not (sharp / sequence.name).is_dir():
            raise ArtifactError(f"{sequence} has no partner in {sharp}", hint="restore the set")
        pairs += _matched_files(sequence, sharp / sequence.name, f"{sequence.name}/")
    return pairs


def _is_image(path: Path) -> bool:
    """Whether a path is an image file that is not hidden; macOS leaves hidden files beside others."""
    return is_picture(path) and not path.name.startswith(".") and path.is_file()


def _listed(folder: Path, split: Split) -> list[PairFiles]:
    """RealBlur: the pairs inside the folder that the lists name, sharp before blurred on each line."""
    pairs = []
    # Called from inside the folder with ".", its parent still has a name.
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow a link away from the lists
    for place in (folder, folder.parent):
        for path in sorted(place.glob(f"RealBlur*_{_SPLIT_FOLDERS[split]}_list.txt")):
            for sharp, blurred in _read_list(path):
                if folder not in blurred.parents:
                    continue
                if missing := [str(file) for file in (sharp, blurred) if not file.is_file()]:
                    raise ArtifactError(f"{missing[0]} is missing, which {path} lists", hint="restore the set")
                name = f"{blurred.parent.parent.name}/{blurred.name}"
                pairs.append(PairFiles(name, blurred, sharp))
    return pairs


def _read_list(path: Path) -> Iterator[tuple[Path, Path]]:
    """Sharp and blurred file of each line of a list of RealBlur; empty lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as err:
        raise ArtifactError(f"{path} cannot be read: {err}", hint="restore the set") from err
    for number, line in enumerate(lines, start=1):
        names = line.split()
        if len(names) == 1:
            raise ArtifactError(
                f"line {number} of {path} is {line!r}", hint="each line names a sharp and a blurred file"
            )
        if any(".." in Path(name).parts or Path(name).is_absolute() for name in names[:2]):
            raise ArtifactError(f"line {number} of {path} leads out of its folder: {line!r}", hint="restore the list")
        if names:
            yield path.parent / names[0], path.parent / names[1]
