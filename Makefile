# Everything runs in .venv, which each target makes where it is missing. Needed beforehand: make, and Python 3.11 or
# later with its venv module (on Debian and Ubuntu: apt install python3 python3-venv make).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.installed-demo
STAMP := $(VENV)/.installed

.PHONY: venv demo test check gpu-proofs release clean

venv: $(STAMP)

# What the demo needs and nothing else; the tests' environment is the same one with more in it, so that nothing is
# fetched twice.
#
# torch is named in the same command so that the resolver settles its version before anything that depends on it.
$(DEMO): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Hint: install Python's venv module, such as: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install -c constraints.txt torch==2.13.0 -e '.[demo]'
	touch $@

# kernel-lens carries TensorRT's C++ headers, which the plugin is compiled against in the tests; nothing of it is run, so
# it comes without its dependencies. tritonclient, which asks for older libraries than it needs, has Triton's message
# formats. spandrel asks for torchvision, which it needs for two of its networks alone.
$(STAMP): $(DEMO)
	$(BIN)/python -m pip install -c constraints.txt torch==2.13.0 -e '.[demo,dev]'
	$(BIN)/python -m pip install -c constraints.txt --no-deps kernel-lens tritonclient python-rapidjson spandrel einops
	touch $@

demo: $(DEMO)
	$(BIN)/deblur-deploy demo

test: venv
	$(BIN)/python -m pytest -q -m "not slow"

check: venv
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

# What an NVIDIA GPU has to prove, as a table: in MINUTES, on whatever libraries there are, from .venv or from PYTHON.
MINUTES ?= 8
gpu-proofs:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/run.py gpu-proofs --minutes $(MINUTES) $(ARGS)

# Wheel, sdist and bill of materials, in dist.
release: venv
	$(BIN)/python -m hatchling build
	$(BIN)/python release/sbom.py constraints.txt requirements.lock > dist/sbom.json

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
	find deblur_deploy tests -name __pycache__ -type d -prune -exec rm -rf {} +
