# The developer's manual. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
# Where pip finds torch: empty takes the machine's default index, which on a machine with an NVIDIA GPU is what you want.
# Without a GPU (no nvidia-smi) the CPU builds are asked for, which saves several GB. Set TORCH_INDEX= to override.
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo yes)
TORCH_INDEX ?= $(if $(HAS_GPU),,https://download.pytorch.org/whl/cpu)
CONSTRAINTS ?= constraints.txt
# So many processes share the tests, each computing on one thread; 0 runs them in this one.
TEST_PROCESSES ?= 2
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test chaos docs pages lint audit sbom format coverage mini-pack gpu bench clean install

# From a fresh clone to pictures: install, then the main job on SQLite, a serverless broker, a folder and a tiny model,
# whose face networks are an InsightFace pack.
demo: .venv/.worker
	$(BIN)/portraits demo

# Every test that can run on this machine; servers that are not reachable are skipped (in CI they must be there).
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES)

# The long soak: workers killed everywhere on every broker, then large chaos runs (docs/chaos.md); about an hour.
CHAOS_OPTIONS ?= --renders 2000 --minutes 30
chaos: .venv/.dev
	$(BIN)/python tests/chaos/soak.py $(CHAOS_OPTIONS)

# The documentation as a site in site/: every link must hold.
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict # without --quiet, which takes the warnings from strict
	@echo "open site/index.html"

# Write anew what is made from the code, and the output that the tutorials show (a minute: a worker really draws).
pages: .venv/.dev
	$(BIN)/python scripts/settings_table.py
	$(BIN)/python scripts/cli_reference.py
	$(BIN)/python scripts/error_table.py
	$(BIN)/python scripts/database_reference.py
	$(BIN)/python scripts/http_reference.py
	$(BIN)/python scripts/image_lock.py
	$(BIN)/python scripts/doc_output.py --write

# Style, types and import directions.
lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known vulnerabilities of what is installed; says so and ends with 3 where the advisories cannot be asked.
audit: .venv/.dev
	$(BIN)/python scripts/audit.py

# A bill of what is installed, as CycloneDX JSON, checked against its schema.
SBOM ?= .portraits/sbom.json
sbom: .venv/.dev
	@mkdir -p $(dir $(SBOM))
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --of JSON --sv 1.6 --output-reproducible --validate \
		--output-file $(SBOM) $(BIN)/python

# Rewrite the code in the house's style.
format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The tests with the lines they reached.
coverage: .venv/.dev
	$(BIN)/python -m pytest --cov --cov-report=term

# The virtual environment for users (worker) and for developers (dev).
install: .venv/.worker

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

# torch comes first and alone, so that nothing else can choose a larger build of it.
.venv/.torch: constraints.txt | .venv/bin/python
	@echo "Installing PyTorch ($(if $(HAS_GPU),GPU found,no GPU found: CPU build)) ..."
	scripts/install-torch "$(BIN)/pip" "$(CONSTRAINTS)" "$(TORCH_INDEX)"
	@touch $@

.venv/.worker: pyproject.toml .venv/.torch
	@echo "Installing the worker ..."
	$(PIP) install -c $(CONSTRAINTS) -e '.[worker,insightface,serve]'
	@touch $@

.venv/.dev: pyproject.toml .venv/.torch
	@echo "Installing the worker and the developers' tools ..."
	$(PIP) install -c $(CONSTRAINTS) -e '.[worker,insightface,train,evaluate,serve,telemetry,watermark,docs,dev]'
	@# spandrel asks for torchvision, whose builds must match torch's; the upscaler does without it.
	$(PIP) install -c $(CONSTRAINTS) --no-deps spandrel
	@touch $@ .venv/.worker

# Train the mini pack from nothing; run again to go on. With a GPU: make mini-pack MINI_SIZE=full MINI_DEVICE=cuda
MINI_SIZE ?= tiny
MINI_DEVICE ?= cpu
mini-pack: .venv/.dev
	$(BIN)/python -m hyperlora.mini train --size $(MINI_SIZE) --device $(MINI_DEVICE) --work .portraits/mini-$(MINI_SIZE) \
		--pack packs/mini-$(MINI_SIZE) --judge tests/assets/mini-judge $(MINI_OPTIONS)

# On a machine with a GPU: the tests that need one.
gpu: .venv/.dev
	$(BIN)/python -m pytest tests/gpu -m gpu

# On a machine with a GPU: every benchmark, about ten minutes.
bench: .venv/.dev
	$(BIN)/python bench/all.py --out .portraits/bench

# Remove what the demo and the tests made, not the environment.
clean:
	rm -rf .portraits portraits-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
