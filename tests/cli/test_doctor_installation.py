"""What is installed, asked of packages that the tests lay out in folders of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from deblur_deploy.cli.doctor_command import Clash, check_extras, find_clashes


def lay_out(folder: Path, name: str, version: str, lines: list[str], module: str = "") -> None:
    """A distribution as pip leaves it: its metadata, and which module it brought."""
    information = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    information.mkdir(parents=True)
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
    (information / "METADATA").write_text("\n".join(head) + "\n")
    (information / "RECORD").write_text("")
    (information / "top_level.txt").write_text(f"{module}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    return tmp_path


def test_an_extra_lacks_what_is_missing_or_too_old(site):
    lines = [
        "Provides-Extra: all",
        "Provides-Extra: compress",
        "Provides-Extra: elsewhere",
        'Requires-Dist: torch>=2.6; extra == "compress"',
        'Requires-Dist: onnx>=1.18; extra == "compress"',
        'Requires-Dist: pruning; extra == "compress"',
        'Requires-Dist: deblur-deploy[compress]; extra == "all"',
        "Requires-Dist: winreg; extra == 'elsewhere' and sys_platform == 'win32'",
    ]
    lay_out(site, "deblur-deploy", "1.0", lines)
    lay_out(site, "torch", "2.1.0", [])
    lay_out(site, "onnx", "1.19", [])

    all_of_it, compress, elsewhere = check_extras()

    assert compress.lacking == ("torch>=2.6 (2.1.0 is installed)", "pruning")
    assert all_of_it.lacking == compress.lacking
    assert elsewhere.lacking == ()
    assert compress.install == "pip install 'deblur-deploy[compress]'"


def test_two_distributions_of_one_module_clash(site):
    lay_out(site, "onnxruntime", "1.20", [], module="onnxruntime")
    assert find_clashes() == []

    lay_out(site, "onnxruntime-gpu", "1.20", [], module="onnxruntime")

    (clash,) = find_clashes()
    assert clash == Clash("onnxruntime", ("onnxruntime", "onnxruntime-gpu"))
    assert clash.mend(has_gpu=True).endswith("pip install onnxruntime-gpu")
    assert clash.mend(has_gpu=False).endswith("pip install onnxruntime")
