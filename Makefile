# Everything happens in .venv, which is made on the first use; only Python (3.10 or newer), pip and make must be there.
#
#   make PYTHON=python3.12 demo        another Python
#   make test ARGS="-k pbt -x"         arguments for pytest
#   make demo ARGS="--seed 1"          arguments for the example
#   make faults ARGS="--kills 300"     more of it; --seed 7 for the same again, --minutes 30 for long
#   make faults CLUSTER_ARGS="--strikes 60"   the same on a cluster; --strikes 0 for none
#   make bench-vs-ray ARGS="--runs 3"  medians of three; --only synch for a part, --scale 0.2 for a glance

PYTHON ?= python3
ARGS ?=
CLUSTER_ARGS ?=
# pyproject.toml asks for a range of torch only. This release is a CPU build on Linux; the newest brings CUDA, several GB.
TORCH ?= torch==2.13.0
# What Shoal is compared with, each in an environment of its own. Figures belong to a release.
RAY ?= ray[tune]==2.60.0
SYNE_TUNE ?= syne-tune==0.16.0

# Of the tests: one more than a small machine has cores, because most of them wait for processes that they have started.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 3 ? 3 : n > 4 ? 4 : n)))

VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --quiet --disable-pip-version-check
PIP := $(BIN)/python $(INSTALL)

.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster faults lint pictures bench bench-vs-ray bench-vs-syne-tune clean
.NOTPARALLEL:

help:
	@echo "make demo                train a population of ConvNets on MNIST, in a minute or two"
	@echo "make test                run the tests, but for those of the cluster"
	@echo "make test-cluster        run those on a real Ray cluster and a real S3 server, both on this machine"
	@echo "make faults              kill drivers, members and nodes of a cluster, more than a hundred times, and count what was lost"
	@echo "make lint                run the linter, the formatter's check and the type checkers"
	@echo "make pictures            run the code of the pages in docs, and make their pictures and what it prints"
	@echo "make bench               measure all that is promised about speed, with targets; ten minutes"
	@echo "make bench-vs-ray        run the same work on Shoal and on Ray Tune, side by side; 12 to 15 minutes"
	@echo "make bench-vs-syne-tune  the same with Syne Tune; two minutes"
	@echo "make clean               remove the environments and what tools left behind; results stay"

demo: $(VENV)/.installed-examples
	@$(BIN)/python -m shoal.examples.pbt_mnist $(ARGS)

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not cluster" $(ARGS)

test-cluster: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m cluster tests/cluster tests/contracts $(ARGS)

faults: $(VENV)/.installed-dev
	@failed=; \
	$(BIN)/python -m tests.faults.storm $(ARGS) || failed=yes; \
	echo; \
	$(BIN)/python -m tests.faults.storm_cluster $(CLUSTER_ARGS) || failed=yes; \
	test -z "$$failed"

lint: $(VENV)/.installed-dev
	@failed=; \
	for check in "ruff check" "ruff format --check" "mypy" "pyright"; do \
		echo "$$check ..."; \
		$(BIN)/$$check || failed="$$failed, $$check"; \
	done; \
	if [ -n "$$failed" ]; then echo "lint failed: $${failed#, }"; exit 1; fi

pictures: $(VENV)/.installed-dev
	@$(BIN)/python docs/make_pictures.py $(ARGS)
	@$(BIN)/python docs/make_looking.py

bench: $(VENV)/.installed-examples
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-vs-ray: $(VENV)/.installed-examples $(VENV)-ray/.installed
	@$(BIN)/python benchmarks/versus_ray.py $(ARGS)

bench-vs-syne-tune: $(VENV)/.installed-examples $(VENV)-syne-tune/.installed
	@$(BIN)/python benchmarks/versus_syne_tune.py $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-ray $(VENV)-syne-tune build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

# A stamp says that .venv holds what pyproject.toml asked for when the stamp was made.
$(VENV)/.installed-examples: pyproject.toml | $(VENV)/.created
	@echo "installing $(TORCH) (some 200 MB) ..."
	@$(PIP) "$(TORCH)"
	@echo "installing Shoal with what its examples need ..."
	@$(PIP) --editable ".[examples]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed-examples
	@echo "installing what the tests need ..."
	@$(PIP) --editable ".[dashboard,dev,examples]"
	@touch $@

# The Makefile names the releases. Shoal is there, too, for the rows in which both run on one Ray.
$(VENV)-ray/.installed: Makefile | $(VENV)-ray/.created
	@echo "installing $(RAY) (some 600 MB) ..."
	@$(@D)/bin/python $(INSTALL) "$(RAY)" --editable .
	@touch $@

$(VENV)-syne-tune/.installed: Makefile | $(VENV)-syne-tune/.created
	@echo "installing $(SYNE_TUNE) (some 1.2 GB, with XGBoost) ..."
	@$(@D)/bin/python $(INSTALL) "$(SYNE_TUNE)"
	@touch $@

$(VENV)/.created $(VENV)-ray/.created $(VENV)-syne-tune/.created:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Shoal needs Python 3.10 or newer, but $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Name another: make PYTHON=python3.12" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; }
	@echo "creating $(@D) with $$("$(PYTHON)" -V 2>&1) ..."
	@"$(PYTHON)" -m venv $(@D)
	@touch $@
