"""``deblur-deploy doctor`` on this machine, and where two packages clash."""

from __future__ import annotations

import pytest

from deblur_deploy.cli.doctor_command import Clash
from deblur_deploy.runtime.runtimes import RUNTIMES


def test_it_says_what_is_ready(run):
    found = run("doctor", "--json").done().json

    assert found["device"]["cores"] >= 1
    assert set(found["runtimes"]) == set(RUNTIMES)
    assert found["runtimes"]["torch"] is None
    assert found["extras"]["export"] == []
    assert found["clashes"] == []


def test_what_lacks_the_same_is_said_in_one_line(run):
    lines = run("doctor").done().out.splitlines()

    (ready,) = [line for line in lines if line.startswith("runtime") and line.endswith(": ready")]
    assert "torch, torch-channels-last" in ready
    assert len({line for line in lines if line}) == len([line for line in lines if line])


@pytest.mark.parametrize(("busy", "said"), [(0.2, False), (1.04, True), (None, False)])
def test_a_machine_on_which_others_compute_is_told(run, monkeypatch, busy, said):
    monkeypatch.setattr("deblur_deploy.cli.doctor_command.BusyWatch.busy_cores", lambda *_: busy)

    printed = run("doctor").done().out

    assert ("shared    other processes keep 1.0 of" in printed) is said
    assert run("doctor", "--json").done().json["busy_cores"] == busy


def test_a_clash_is_an_error_with_the_command_that_mends_it(run, monkeypatch):
    clash = Clash("onnxruntime", ("onnxruntime", "onnxruntime-gpu"))
    monkeypatch.setattr("deblur_deploy.cli.doctor_command.find_clashes", lambda: [clash])

    printed = run("doctor").refusal(1)

    assert "break each other" in printed
    assert "pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime" in printed
