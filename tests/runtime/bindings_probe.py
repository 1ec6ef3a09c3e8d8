"""Run by test_trt_bindings.py in a process of its own: prints the members of TensorRT's classes as JSON."""

from __future__ import annotations

import ctypes
import json
import sys

for library in sys.argv[2:]:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
module = __import__(sys.argv[1])
classes = {name: getattr(module, name) for name in dir(module) if isinstance(getattr(module, name), type)}
print(json.dumps({name: dir(cls) for name, cls in classes.items()} | {"": dir(module)}))
