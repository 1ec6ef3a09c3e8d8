"""What the file of an engine can do: what each flavour has, by its own names, and what is said of the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from deblur_deploy.config import PlanConfig
from deblur_deploy.core.errors import BuildError, ConfigError
from deblur_deploy.engine.build_settings import Failure, apply_plan, check_plan, save_timing_cache
from deblur_deploy.engine.flavour import Flavour, load_flavour

FULL = Flavour("tensorrt", SimpleNamespace(__version__="11.4"))


@pytest.mark.parametrize(
    ("plan", "reason", "hint"),
    [
        (PlanConfig(timing_cache="t.cache"), "--timing-cache: TensorRT-RTX times no kernels", "runtime cache"),
        (PlanConfig(version_compatible=True), "--version-compatible: .* lean runtime", "--flavour tensorrt"),
        (PlanConfig(hardware_compatibility="ampere_plus"), "--hardware-compatibility", "--target portable"),
    ],
)
def test_what_tensorrt_rtx_lacks_is_refused_with_the_reason(plan: PlanConfig, reason: str, hint: str):
    with pytest.raises(BuildError, match=reason) as caught:
        check_plan("rtx", plan, has_gpu=True)
    assert hint in caught.value.hint
    check_plan("tensorrt", plan, has_gpu=True)


@pytest.mark.parametrize(
    ("option", "plan"), [("strip", PlanConfig(strip_weights=True)), ("refit", PlanConfig(refit=True))]
)
def test_weights_that_are_put_in_later_need_a_gpu_at_the_build_for_rtx(option: str, plan: PlanConfig):
    with pytest.raises(BuildError, match=f"--{option}.*: TensorRT-RTX needs the CUDA driver") as caught:
        check_plan("rtx", plan, has_gpu=False)
    assert "leave it out" in caught.value.hint
    check_plan("rtx", plan, has_gpu=True)
    check_plan("tensorrt", plan, has_gpu=False)


def test_what_a_version_lacks_is_named():
    old = Flavour("tensorrt", SimpleNamespace(__version__="8.6", BuilderFlag=type("BuilderFlag", (), {"REFIT": 1})))

    with pytest.raises(BuildError, match=r"TensorRT 8\.6 has no BuilderFlag\.STRIP_PLAN"):
        apply_plan(old, SimpleNamespace(), PlanConfig(strip_weights=True))


PROBE = """
import ctypes, json, sys
for library in sys.argv[1:]:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
import tensorrt_bindings as trt
from deblur_deploy.config import PlanConfig
from deblur_deploy.engine.flavour import Flavour, strongly_typed_flags
from deblur_deploy.engine.build_settings import apply_plan

class Settings:
    "Takes what the real IBuilderConfig has a name for."
    def __init__(self):
        self.__dict__["seen"] = {}
    def __setattr__(self, name, value):
        assert hasattr(trt.IBuilderConfig, name), name
        self.seen[name] = value.name
    def set_flag(self, flag):
        assert isinstance(flag, trt.BuilderFlag)
        self.seen.setdefault("flags", []).append(flag.name)

settings = Settings()
plan = PlanConfig(strip_weights=True, refit=True, version_compatible=True, hardware_compatibility="ampere_plus")
apply_plan(Flavour("tensorrt", trt), settings, plan)
wanted = {
    trt.IBuilderConfig: "create_timing_cache get_timing_cache set_timing_cache add_optimization_profile "
    "set_memory_pool_limit builder_optimization_level profiling_verbosity plugins_to_serialize",
    trt.IPluginRegistry: "load_library", trt.Builder: "create_optimization_profile build_serialized_network",
    trt.IOptimizationProfile: "set_shape", trt.EngineInspector: "get_engine_information",
    trt.ICudaEngine: "create_engine_inspector", trt.Runtime: "deserialize_cuda_engine engine_host_code_allowed",
    trt.LayerInformationFormat: "JSON", trt.MemoryPoolType: "WORKSPACE", trt: "get_plugin_registry OnnxParser",
}
missing = [f"{o}.{n}" for o, names in wanted.items() for n in names.split() if not hasattr(o, n)]
print(json.dumps({"seen": settings.seen, "missing": missing, "typed": strongly_typed_flags(trt)}))
"""


def test_every_name_is_one_of_the_full_tensorrt(tensorrt_stubs: list[str]):
    ended = subprocess.run(
        [sys.executable, "-c", PROBE, *tensorrt_stubs], capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout.splitlines()[-1])
    assert answer["missing"] == []
    assert answer["typed"] == 1
    flags = ["STRIP_PLAN", "REFIT", "VERSION_COMPATIBLE"]
    assert answer["seen"] == {"flags": flags, "hardware_compatibility_level": "AMPERE_PLUS"}


@pytest.mark.rtx
def test_the_rest_is_one_of_tensorrt_rtx():
    rtx, seen = load_flavour("rtx"), []

    apply_plan(rtx, SimpleNamespace(set_flag=seen.append), PlanConfig(strip_weights=True, refit=True))

    assert seen == [rtx.module.BuilderFlag.STRIP_PLAN, rtx.module.BuilderFlag.REFIT]


class CachingConfig:
    """A builder's settings with a timing cache that knows the bytes of its own version."""

    def __init__(self, *, fits: bool = True) -> None:
        self.loaded: bytes | None = None
        self._fits = fits

    def create_timing_cache(self, data: bytes) -> SimpleNamespace:
        self.loaded = data
        return SimpleNamespace(serialize=lambda: data + b"+1")

    def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return self._fits and not ignore_mismatch

    def get_timing_cache(self) -> SimpleNamespace:
        return self.cache


def test_a_timing_cache_starts_empty_and_is_added_to(tmp_path: Path):
    path = tmp_path / "kernels.cache"
    for expected in (b"", b"+1"):
        config = CachingConfig()
        apply_plan(FULL, config, PlanConfig(timing_cache=str(path)))
        assert config.loaded == expected
        save_timing_cache(config, path)
    assert path.read_bytes() == b"+1+1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_timing_cache_that_does_not_fit_is_refused(tmp_path: Path):
    path = tmp_path / "kernels.cache"
    path.write_bytes(b"of another card")
    with pytest.raises(BuildError, match=r"kernels\.cache is not one that TensorRT 11\.4 can use"):
        apply_plan(FULL, CachingConfig(fits=False), PlanConfig(timing_cache=str(path)))
    with pytest.raises(BuildError, match="cannot be read"):
        apply_plan(FULL, CachingConfig(), PlanConfig(timing_cache=str(tmp_path)))
    config = CachingConfig()
    apply_plan(FULL, config, PlanConfig(timing_cache=str(tmp_path / "new")))
    with pytest.raises(BuildError, match="cannot be written"):
        save_timing_cache(config, tmp_path / "nowhere" / "new")


def test_hints_follow_the_reason():
    workspace = Failure("no tactics within the workspace limit", 1024)
    assert "1024 bytes" in workspace.hint()
    assert "its default" in Failure("Out of Workspace", None).hint()
    assert "--fp16" in Failure("node /Conv", None).hint()


def test_levels_are_those_of_trtexec():
    with pytest.raises(ConfigError, match="hardware_compatibility is 'turing'"):
        PlanConfig(hardware_compatibility="turing")  # type: ignore[arg-type]
