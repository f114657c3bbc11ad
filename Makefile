# make serve    the service on http://127.0.0.1:8000, with the bundled weights
# make check    ruff, mypy and import-linter: seconds, once mypy has its cache
# make test-fast    the tests that are not marked slow, browser or ray, in less than a minute on two quiet cores
# make test     make check and all tests: everything that has to be green before a change lands
# make programs     what some tests start and pip does not bring, by apt-get: wants root
# make bench    the service's speed against others', half an hour on two quiet cores; wants wrk
# make soak     loads, faults and bad inputs, half an hour on two quiet cores; wants slowhttptest
# make ray-test the service and vae-train encode on a Ray cluster of two node processes, ten minutes on two quiet cores
# make image    the container image; IMAGE_BUILD is the command that builds it
# make image-test   builds it, starts it read-only as another user, and asks it for everything; IMAGE_RUN starts it
# make docs     the documentation as a site, in site/; .venv/bin/mkdocs serve shows it while it is edited
# make release-check    what a release publishes, built into dist/ and checked; TAG is the tag, v and the version
# make lock     requirements/*.txt, what the image installs, anew
#
# Targets that need .venv make it and install into it, and again when pyproject.toml has changed.
# TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu takes torch's CPU build (200 MB) in place of the CUDA one.

PYTHON ?= python3
TORCH_INDEX_URL ?=
BIN := .venv/bin
PYTEST := $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/pip --disable-pip-version-check install --quiet
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE_PORT ?= 8000
IMAGE_BUILD ?= docker build --tag vae-service:$(VERSION) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) .
IMAGE_RUN ?= docker run --rm --read-only --tmpfs /tmp --user 12345:12345 --cap-drop ALL --security-opt no-new-privileges \
	--publish 127.0.0.1:$(IMAGE_PORT):8000 vae-service:$(VERSION)
TAG ?= $(shell git tag --points-at HEAD 'v*')
IMAGE_BUILDER = $(filter-out docker,$(firstword $(IMAGE_BUILD)))$(shell docker info >/dev/null 2>&1 && echo docker)
LOCK := $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --no-header --only-binary :all: --python-version 3.11
LOCK_CPU_TORCH ?= --torch-backend cpu
LOCKED := pyproject.toml --extra otel

.PHONY: serve check test test-fast programs bench soak ray-test image image-test docs release-check lock clean

serve: .venv/serve
	$(BIN)/vae-serve

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(PYTEST) -m "not ray"

test-fast: .venv/dev
	$(PYTEST) -m "not (ray or browser or slow)"

programs:
	apt-get update --quiet=2
	apt-get install --yes --quiet=2 --no-install-recommends caddy prometheus \
		$(if $(shell command -v google-chrome),,chromium-headless-shell) $(if $(shell command -v kubectl),,kubernetes-client)

bench: .venv/dev
	$(BIN)/python -m benchmarks.serving

soak: .venv/dev
	$(BIN)/python -m tests.soak

ray-test: .venv/ray
	$(BIN)/pytest -m ray
	$(BIN)/python -m tests.ray

image:
	$(IMAGE_BUILD)

image-test: image .venv/dev
	$(BIN)/python -m deploy.image.check http://127.0.0.1:$(IMAGE_PORT) -- $(IMAGE_RUN)

# the variable silences the notice that mkdocs-material is supported until May 2027
docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release-check: .venv/dev
	rm -rf dist
	$(BIN)/python -m deploy.release.check dist $(TAG)
	$(if $(IMAGE_BUILDER),$(MAKE) image-test,@echo "The image is not checked: there is no Docker engine, and no other IMAGE_BUILD.")

# $(1): the lock; $(2): what it locks. It is the same on both platforms of the image
define lock
	$(LOCK) --python-platform x86_64-manylinux_2_28 --output-file requirements/$(1).txt $(2)
	$(LOCK) --python-platform aarch64-manylinux_2_28 $(2) | diff requirements/$(1).txt -
endef

lock: .venv/dev
	$(call lock,none,$(LOCKED))
	$(call lock,cuda,requirements/cuda.in $(LOCKED))
	$(call lock,build,requirements/build.in)
	$(LOCK) $(LOCK_CPU_TORCH) --python-platform x86_64-manylinux_2_28 --output-file requirements/cpu.txt requirements/cpu.in $(LOCKED)

clean:
	rm -rf .venv benchmarks/.venvs dist site

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/serve: pyproject.toml | $(BIN)/python
	@echo "Installing the service into .venv."
	$(PIP) --editable .
	touch $@

.venv/dev: pyproject.toml vae_client/pyproject.toml | $(BIN)/python
	@echo "Installing the service, the training, the client and the test tools into .venv; the first time this takes some minutes."
	$(if $(TORCH_INDEX_URL),$(PIP) --index-url $(TORCH_INDEX_URL) torch torchvision)
	$(PIP) --editable .[training,dev] --editable ./vae_client
	touch $@ .venv/serve

.venv/ray: .venv/dev
	@echo "Installing Ray into .venv."
	$(PIP) --editable .[training,dev,ray]
	touch $@
