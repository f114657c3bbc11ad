# make serve    the service on http://127.0.0.1:8000, with the bundled weights
# make test     everything that has to be green before a change lands
# make bench    the service's speed against others', half an hour on two quiet cores; wants wrk
#
# Each makes .venv and installs into it when needed, and again when pyproject.toml has changed.
# TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu takes torch's CPU build (200 MB) in place of the CUDA one.

PYTHON ?= python3
TORCH_INDEX_URL ?=
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

.PHONY: serve test bench clean

serve: .venv/serve
	$(BIN)/vae-serve

test: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

bench: .venv/dev
	$(BIN)/python -m benchmarks.serving

clean:
	rm -rf .venv benchmarks/.venvs

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/serve: pyproject.toml | $(BIN)/python
	@echo "Installing the service into .venv; the first time this takes some minutes."
	$(if $(TORCH_INDEX_URL),$(PIP) --index-url $(TORCH_INDEX_URL) torch)
	$(PIP) --editable .
	touch $@

.venv/dev: pyproject.toml | $(BIN)/python
	@echo "Installing the service, the training and the test tools into .venv; the first time this takes some minutes."
	$(if $(TORCH_INDEX_URL),$(PIP) --index-url $(TORCH_INDEX_URL) torch torchvision)
	$(PIP) --editable .[training,dev]
	touch $@ .venv/serve
