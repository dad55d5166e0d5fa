# Two commands: `make audit` runs the main job on images that it draws itself, `make test` runs the tests.
# Each makes its own environment in .venv when there is none; all they need is Python 3.11 or newer and make.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
DEMO ?= runs/phantom-chest

.PHONY: audit test check

audit: $(VENV)/ready
	$(RUN)/antivenom train --data phantom-chest --epochs 14 --output $(DEMO)
	$(RUN)/antivenom audit --model $(DEMO)/model.safetensors --data phantom-chest --images 100 --steps 20 --queries 100 \
		--output $(DEMO)/audit

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/ready
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "antivenom needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
