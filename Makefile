# make demo      sets everything up, trains with fused dropout, and measures it against native dropout
# make examples  four more examples: a convolutional network, a recurrent one, a transformer, uncertainty
# make test      sets everything up and runs the tests
# make bench     measures everything on the CPU, or with DEVICE=cuda on a GPU, and writes bench/results/ and documents
# make proof     everything that takes longer than the tests have time for; writes proof/REPORT.md
# make gpu-proof  the same on a GPU: all tests, and compute-sanitizer; writes into proof/REPORT.md
# make lint      ruff, clang-format, mypy
# make cuda-check  builds the CUDA extension for all architectures and checks it; needs nvcc, not a GPU
#
# TORCH is what pip is asked for. Whether CUDA is built follows from the torch and the compiler that are found.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch>=2.11
CUDA_VENV ?= .venv-cuda
CUDA_TORCH ?= torch>=2.11
TEST_PROCESSES ?= auto
DEVICE ?= cpu
RESULTS ?= bench/results/$(shell uname -m)-$(DEVICE).json

PY := $(VENV)/bin/python
CPP := $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/cuda_on_host/*' 'proof/*.h' 'proof/*.cpp' 'tools/*.cpp')

.PHONY: setup build demo examples test proof gpu-proof lint bench cuda-check clean

# An environment is ready when it holds a record of what it was asked for.
wanted = echo "$(2)"; $(1)/bin/python tools/requirements.py $(3) 2>/dev/null
ready = [ "$$(cat $(1)/ready 2>/dev/null)" = "$$($(call wanted,$(1),$(2),$(3)))" ]
define environment
	@[ -n "$(INSTALLED)" ] || $(call ready,$(1),$(2),$(3)) || { \
	  echo "setting up $(1) with $(2)" && \
	  $(PYTHON) -m venv --clear $(1) && \
	  $(1)/bin/pip install -q --disable-pip-version-check "$(2)" && \
	  $(1)/bin/pip install -q --disable-pip-version-check $$($(1)/bin/python tools/requirements.py $(3)) && \
	  { $(call wanted,$(1),$(2),$(3)); } > $(1)/ready; }
endef

setup:
	$(call environment,$(VENV),$(TORCH),build test demo lint)

build: setup
	@$(PY) -c "import fused_dropout._C" 2> /dev/null || echo "building the extension, some minutes; $(VENV)/build.log"
	@$(PY) setup.py -q build_ext --inplace > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }

demo: build
	$(PY) -m examples.digits
	$(PY) -m fused_dropout.bench --quick

examples: build
	$(PY) -m examples.convolution
	$(PY) -m examples.recurrent
	$(PY) -m examples.transformer
	$(PY) -m examples.uncertainty

test: build
	$(PY) -m pytest -n $(TEST_PROCESSES)

proof: build
	$(PY) -m proof --save

gpu-proof: build
	$(PY) -m proof --only gpu gpu_sanitizers --save

bench: build
	$(PY) -m fused_dropout.bench --full --device $(DEVICE) --json $(RESULTS)
	$(PY) -m fused_dropout.bench.readme $(RESULTS)

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP)
	$(PY) -m mypy

# In a copy of the files, so that the two builds stay out of each other's way.
cuda-check:
	$(call environment,$(CUDA_VENV),$(CUDA_TORCH),build test)
	@mkdir -p $(CUDA_VENV)/src && find $(CUDA_VENV)/src -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
	@git ls-files -z -co --exclude-standard | xargs -0 cp -dp --parents -t $(CUDA_VENV)/src
	cd $(CUDA_VENV)/src && env -u NO_CUDA FORCE_CUDA=1 ../bin/python setup.py -q build_ext --inplace > ../build.log 2>&1 \
	  || { cat ../build.log; exit 1; }
	cd $(CUDA_VENV)/src && ../bin/python -m pytest -n $(TEST_PROCESSES) -rs

clean:
	rm -rf build dist *.egg-info fused_dropout/*.so fused_dropout/_build.json
