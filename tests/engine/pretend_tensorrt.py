"""Stands for the full TensorRT where a test needs one without a GPU: tests copy it to a folder as ``tensorrt.py``.

It reads the network as TensorRT's parser does: an operator that is neither ONNX's nor has a function is looked up among
the plugins, by namespace and name. What it was told is its engine.
"""

import json
import os
import sys
from types import SimpleNamespace

import onnx

__version__ = "11.4.0"

PLUGIN_LIBRARY = os.environ.get("PRETEND_PLUGIN_LIBRARY", "")
PLUGIN_FAILURE = os.environ.get("PRETEND_PLUGIN_FAILURE", "")
LOADED = []


class ILogger:
    pass


class BuilderFlag:
    STRIP_PLAN, REFIT, VERSION_COMPATIBLE = "STRIP_PLAN", "REFIT", "VERSION_COMPATIBLE"


class HardwareCompatibilityLevel:
    AMPERE_PLUS = "AMPERE_PLUS"


NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=0)
ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")
MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")


def get_plugin_registry():
    def load_library(path):
        if path != PLUGIN_LIBRARY:
            return None
        LOADED.append(path)
        return object()

    return SimpleNamespace(load_library=load_library)


class Config:
    def __init__(self):
        self.told = {"flags": [], "profiles": []}

    def __setattr__(self, name, value):
        if name != "told":
            self.told[name] = value
        super().__setattr__(name, value)

    def set_flag(self, flag):
        self.told["flags"].append(flag)

    def set_memory_pool_limit(self, pool, limit):
        self.told[pool] = limit

    def add_optimization_profile(self, profile):
        self.told["profiles"].append(vars(profile)["shape"])
        return len(self.told["profiles"]) - 1

    def create_timing_cache(self, data):
        return SimpleNamespace(serialize=lambda: data + b"timed")

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache

    def __getattr__(self, name):
        raise AttributeError(name)


class Profile:
    def set_shape(self, *shape):
        self.shape = shape


class Builder:
    def __init__(self, logger):
        self.config = Config()

    def create_builder_config(self):
        return self.config

    def create_optimization_profile(self):
        return Profile()

    def create_network(self, flags):
        assert flags == 1
        return SimpleNamespace(operators=[])

    def build_serialized_network(self, network, config):
        told = {key: value for key, value in config.told.items() if key != "_cache"}
        return json.dumps({"operators": network.operators, "loaded": LOADED, **told}).encode()


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []
        self.num_errors = 0

    def parse(self, data):
        model = onnx.load_from_string(data)
        assert not model.functions
        for node in model.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            address = [attributes.get(key, b"").decode() for key in ("plugin_namespace", "plugin_version")]
            if node.domain and not (LOADED and address == ["deblur", "1"]):
                self._errors.append(node)
            self._network.operators.append(node.op_type)
        self.num_errors = len(self._errors)
        if self._errors and PLUGIN_FAILURE:  # as TensorRT does: to standard error, past the logger
            print(f"[ERROR] Exception caught in create_plugin(): {PLUGIN_FAILURE}", file=sys.stderr, flush=True)
        return not self._errors

    def get_error(self, index):
        node = self._errors[index]
        return SimpleNamespace(
            desc=lambda: "false" if PLUGIN_FAILURE else "Plugin not found, are the plugin name and version correct?",
            node_name=lambda: node.name,
            node_operator=lambda: node.op_type,
        )
