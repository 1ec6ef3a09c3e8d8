"""What a file says of itself: written by the stages, read back, and refused where it is not as they write it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from deblur_deploy.config import ExportConfig, PrecisionConfig
from deblur_deploy.core.artifact import library_versions, new_step
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.graph.facts import PREFIX, OnnxFacts, parse_facts, read_facts
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN

GOOD = {
    "format": "1",
    "source_sha256": "0f" * 32,
    "network": "srn",
    "image": '{"height": 36, "width": 50}',
    "versions": '{"onnx": "1.23.0"}',
}


def parsed(**changes: str | None) -> OnnxFacts:
    facts = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return parse_facts((f"{PREFIX}{key}", value) for key, value in facts.items())


def test_the_stages_write_what_is_read_back(tmp_path: Path, tiny_config) -> None:
    net = SRN(tiny_config).eval()
    checkpoint = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    exported = export_onnx(checkpoint, ExportConfig(40, 24, io="uint8"), tmp_path / "onnx")
    facts = read_facts(onnx.load(exported.path))
    assert facts == OnnxFacts(checkpoint.sha256, "srn", exported.image, library_versions())
    assert facts.image == ImageSpec("NHWC", 3, (0.0, 255.0), 1, 24, 40, "uint8")
    lowered = lower_precision(exported, PrecisionConfig(), tmp_path / "fp16")
    assert read_facts(onnx.load(lowered.path)) == OnnxFacts(exported.sha256, "srn", exported.image, library_versions())


def test_keys_of_others_are_passed_over() -> None:
    theirs = [("author", "x" * 100_000), ("author", "twice")]
    ours = [(f"{PREFIX}{key}", value) for key, value in GOOD.items()]
    assert parse_facts([*theirs, *ours]) == OnnxFacts(
        "0f" * 32, "srn", ImageSpec(height=36, width=50), {"onnx": "1.23.0"}
    )


HOSTILE = {
    "no format": {"format": None},
    "another format": {"format": "2"},
    "no hash": {"source_sha256": "f" * 63},
    "capitals": {"source_sha256": "F" * 64},
    "line after the hash": {"source_sha256": "f" * 64 + "\n"},
    "no name": {"network": ""},
    "control characters": {"network": "srn\x1b[2J"},
    "endless name": {"network": "s" * 201},
    "no JSON": {"image": "{"},
    "no table": {"image": "[]"},
    "deep JSON": {"image": "[" * 60_000},
    "too long": {"versions": json.dumps({"onnx": "1" * 70_000})},
    "NaN": {"image": '{"value_range": [NaN, 1.0]}'},
    "huge number": {"image": f'{{"height": {"9" * 5_000}, "width": 1}}'},
    "unknown field": {"image": '{"depth": 8}'},
    "wrong type": {"image": '{"height": "36", "width": 50}'},
    "one side": {"image": '{"height": 36}'},
    "zero": {"image": '{"height": 0, "width": 50}'},
    "no multiple": {"image": '{"multiple_of": 0}'},
    "absurd size": {"image": '{"height": 70000, "width": 50}'},
    "mixed layout": {"image": '{"layout": "NHWC"}'},
    "gray": {"image": '{"channels": 1}'},
    "short range": {"image": '{"value_range": [0.0]}'},
    "versions that are no text": {"versions": '{"onnx": 1}'},
    "escapes in a version": {"versions": '{"onnx": "1\\u001b"}'},
    "many versions": {"versions": json.dumps({f"p{n}": "1" for n in range(65)})},
    "lone surrogate": {"image": '{"layout": "\\ud800"}'},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_hostile_metadata_is_one_clear_error(changes: dict[str, str | None]) -> None:
    with pytest.raises(ArtifactError, match="the metadata of the ONNX file cannot be used") as caught:
        parsed(**changes)
    assert "\n" not in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    assert "export-onnx" in caught.value.hint


def test_a_key_that_stands_twice_is_refused() -> None:
    pairs = [(f"{PREFIX}{key}", value) for key, value in GOOD.items()]
    with pytest.raises(ArtifactError, match="twice"):
        parse_facts([*pairs, pairs[1]])


def test_a_file_from_elsewhere_has_no_facts() -> None:
    with pytest.raises(ArtifactError, match=r"it has no deblur_deploy\.format"):
        read_facts(onnx.ModelProto())
