"""What deblurring is worth to who looks at the pictures: characters read, and CT slices in dB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ct_slices import blurred_slices, restore_slice, slice_psnr_db
from measurement import Measurement, Target, spaced
from numpy.typing import NDArray
from text_scenes import Text, rectify, write_on

from deblur_deploy.config import CameraConfig, ExportConfig, ShakeConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import MissingDependencyError, VerificationError
from deblur_deploy.core.images import from_batch, to_batch
from deblur_deploy.core.sources import shipped
from deblur_deploy.data.crops import blur_function
from deblur_deploy.data.pairs import load_photos
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.runtime.runner import Runner, open_runner

VERSIONS = ("sharp", "blurred", "restored", "INT8")
_HEADINGS = ("what, under which blur", *VERSIONS)
_RESAMPLES = 2000

Float = NDArray[np.float64]

Interval = tuple[float, float, float]
"""A figure, and the bounds of its 95 % interval."""


@dataclass(frozen=True)
class Blur:
    """A blur under which pictures are looked at.

    Args:
        name: What it is called.
        shake: The blur; few photons and much read noise make it one of low light.
        camera: Blur as cameras make it, instead of ``shake``.
        ct: Whether CT slices are moved along its paths too.
    """

    name: str
    shake: ShakeConfig = field(default=ShakeConfig())
    camera: CameraConfig | None = None
    ct: bool = True

    @property
    def config(self) -> ShakeConfig | CameraConfig:
        """The blur that is used."""
        return self.camera or self.shake


@dataclass(frozen=True)
class Claim:
    """A published claim of what deblurring brings.

    Args:
        claim: What was published.
        reading: What has to be measured for it.
        bound: What it must be.
    """

    claim: str
    reading: str
    bound: Target


@dataclass(frozen=True)
class Reading:
    """Texts on photographs and CT slices: sharp, blurred, and restored by a generator and by its INT8 file.

    Args:
        original: Name of a shipped generator.
        compressed: Name of the INT8 one made from it.
        runtime: What both run in, as ONNX files.
        images: How many of the shipped evaluation photographs are used, the first of them.
        repeats: How often each photograph and each CT slice is used, with other texts and another motion.
        heights: Range of the heights of capital letters, in pixels.
        blurs: The blurs.
        plates: The claim on plates: how many more are read in full once they are restored, in percent.
        ct: The claim on CT slices: the gain in dB.
    """

    original: str
    compressed: str
    runtime: str
    images: int
    repeats: int
    heights: tuple[float, float]
    blurs: tuple[Blur, ...]
    plates: Claim
    ct: Claim

    def measure(self) -> Measurement:
        """How many more plates are read in full once the pictures are restored, in percent."""
        with TemporaryDirectory() as name:
            graphs = [_export(model, Path(name) / model) for model in (self.original, self.compressed)]
            with open_runner(graphs[0], self.runtime) as first, open_runner(graphs[1], self.runtime) as second:
                texts = [self._read(index, (first, second)) for index in range(len(self.blurs))]
                slices = {
                    blur.name: self._slices(blur.config, (first, second), Path(name)) for blur in self.blurs if blur.ct
                }
        plates = np.concatenate([counts[:, :, 2] for counts in texts])
        dicom = np.concatenate(list(slices.values()))
        outcomes = [
            _judge(self.plates, "%", _more(plates[:, 1], plates[:, 2]), _more(plates[:, 1], plates[:, 3])),
            _judge(self.ct, "dB", _gain(dicom[:, 1] - dicom[:, 0]), _gain(dicom[:, 2] - dicom[:, 0])),
        ]
        details = {
            "models": {graph.directory.name: graph.history[-1].parent for graph in graphs},
            "claims": outcomes,
            "pictures": len(plates),
            "slices": len(dicom),
            "counts": {blur.name: counts.tolist() for blur, counts in zip(self.blurs, texts, strict=True)},
            "ct_db": {name: found.tolist() for name, found in slices.items()},
            "table": {"headings": _HEADINGS, "rows": self._rows(texts, slices)},
        }
        note = "; ".join(f"{one['claim']}: {_words(one)}, {one['verdict']}" for one in outcomes)
        return Measurement(outcomes[0]["figure"], "%", {}, note, details)

    def _read(self, index: int, runners: Sequence[Runner]) -> NDArray[np.int64]:
        """What is read under one blur: (pictures, versions, 4) characters read, all, plates read in full, all."""
        reader, expose, found = TextReader(), blur_function(self.blurs[index].config), []
        for number, photo in enumerate(load_photos(None, "evaluation")[: self.images]):
            for repeat in range(self.repeats):
                written, texts = write_on(photo, self.heights, np.random.default_rng([number, repeat]))
                blurred = expose(written, np.random.default_rng([number, repeat, index])).blurred
                restored = [from_batch(runner.infer(to_batch(blurred))) for runner in runners]
                found.append([_count(reader, picture, texts) for picture in (written, blurred, *restored)])
        return np.array(found)

    def _slices(self, blur: ShakeConfig | CameraConfig, runners: Sequence[Runner], folder: Path) -> Float:
        """PSNR of CT slices: (slices, 3) blurred, restored, INT8."""
        restorers = [Restorer(runner) for runner in runners]
        return np.array(
            [
                [
                    slice_psnr_db(values, one)
                    for values in (one.blurred, *(restore_slice(one, r, folder) for r in restorers))
                ]
                for one in blurred_slices(blur, self.repeats)
            ]
        )

    def _rows(self, texts: Sequence[NDArray[np.int64]], slices: Mapping[str, Float]) -> list[list[str]]:
        """The table: shares with their 95 % intervals, and dB."""
        rows = []
        for what, (part, whole) in {"characters read": (0, 1), "plates read in full": (2, 3)}.items():
            for blur, counts in zip(self.blurs, texts, strict=True):
                shares = [
                    _share(counts[:, version, part], counts[:, version, whole]) for version in range(len(VERSIONS))
                ]
                rows.append([f"{what}, {blur.name}", *(f"{a:.1%} ({b:.1%} to {c:.1%})" for a, b, c in shares)])
        rows += [
            [f"CT slices, {name}", "", *(f"{value:.2f} dB" for value in found.mean(axis=0))]
            for name, found in slices.items()
        ]
        return rows


def _count(reader: TextReader, picture: NDArray[np.uint8], texts: Sequence[Text]) -> list[int]:
    """Characters read in one picture, all of them, plates read in full, and all of those."""
    read = [reader.read(rectify(picture, text.quad)) for text in texts]
    plates = [(text.text, found) for text, found in zip(texts, read, strict=True) if text.kind == "plate"]
    return [
        sum(correct_characters(text.text, found) for text, found in zip(texts, read, strict=True)),
        sum(len(characters(text.text)) for text in texts),
        sum(characters(text) == characters(found) for text, found in plates),
        len(plates),
    ]


def _interval(statistic: Any, *columns: NDArray[Any]) -> Interval:
    """A statistic of pictures and its percentile bootstrap (Efron, 1979).

    Whole pictures are drawn, for the texts of one share its blur.
    """
    from scipy.stats import bootstrap

    found = bootstrap(
        columns, statistic, paired=True, vectorized=True, n_resamples=_RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return float(statistic(*columns, axis=0)), float(found.low), float(found.high)


def _share(part: NDArray[Any], whole: NDArray[Any]) -> Interval:
    return _interval(lambda a, b, axis: a.sum(axis) / b.sum(axis), part, whole)


def _more(before: NDArray[Any], after: NDArray[Any]) -> Interval:
    """By how many percent more were read after than before."""
    if not before.any():
        raise VerificationError("no plate is read while it is blurred", hint="give larger letters or shorter paths")
    return _interval(lambda a, b, axis: 100 * (b.sum(axis) / np.maximum(a.sum(axis), 1) - 1), before, after)


def _gain(change: Float) -> Interval:
    return _interval(lambda a, axis: a.mean(axis), change)


def _judge(claim: Claim, unit: str, restored: Interval, int8: Interval) -> dict[str, Any]:
    """What a figure says of a claim; one whose interval reaches down to nothing is not better than doing nothing."""
    figure, low, high = restored
    better = "met" if claim.bound.is_met(figure) else "missed"
    return {
        "claim": claim.claim,
        "reading": f"{claim.reading}: {claim.bound.describe(unit)}",
        "verdict": better if low > 0 else "not better than doing nothing",
        "figure": figure,
        "interval": [low, high],
        "int8": int8[0],
        "int8_interval": list(int8[1:]),
        "unit": unit,
    }


def _words(outcome: Mapping[str, Any]) -> str:
    unit = spaced(outcome["unit"])
    (low, high), (low8, high8) = outcome["interval"], outcome["int8_interval"]
    return (
        f"{outcome['figure']:+.3g}{unit} ({low:+.3g} to {high:+.3g}), INT8 {outcome['int8']:+.3g}{unit} "
        f"({low8:+.3g} to {high8:+.3g})"
    )


def claim_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a record for the table of published claims."""
    device = record["device"]
    machine = f"{device['cpu']}, {device['cores']} core{'s' if device['cores'] != 1 else ''}"
    return [
        [one["claim"], one["reading"], f"**{one['verdict']}**", _words(one), machine]
        for one in record["details"]["claims"]
    ]


def _export(model: str, out: Path) -> Artifact:
    from deblur_deploy.export.to_onnx import export_onnx

    return export_onnx(load_artifact(shipped("models") / model), ExportConfig(dynamic=True), out)


class TextReader:
    """RapidOCR's recogniser, whose network comes in its wheel; nothing is downloaded.

    Raises:
        MissingDependencyError: RapidOCR is not installed.
    """

    def __init__(self) -> None:
        try:
            from rapidocr import RapidOCR
        except ModuleNotFoundError as err:
            raise MissingDependencyError(
                "characters are read by rapidocr", hint="pip install 'deblur-deploy[ocr]'"
            ) from err
        self._read: Any = RapidOCR(params={"Global.log_level": "critical"})

    def read(self, line: NDArray[np.uint8]) -> str:
        """The text of one line.

        Args:
            line: (H, W, 3) uint8 RGB, one line of text from the front.
        """
        found = self._read(np.ascontiguousarray(line[:, :, ::-1]), use_det=False, use_cls=False, use_rec=True)
        return "".join(found.txts or ())


def characters(text: str) -> str:
    """The letters and digits of a text, in capitals: spaces and rims that were read as signs do not count."""
    return "".join(sign for sign in text.upper() if sign.isascii() and sign.isalnum())


def correct_characters(text: str, read: str) -> int:
    """How many characters of a text were read: its length less the edit distance (Levenshtein, 1966), at least 0."""
    truth, found = characters(text), characters(read)
    row = list(range(len(found) + 1))
    for index, sign in enumerate(truth, start=1):
        before, row[0] = row[0], index
        for column, other in enumerate(found, start=1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (sign != other))
    return max(len(truth) - row[-1], 0)
