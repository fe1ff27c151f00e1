# Everything runs in .venv, which ci/install.py makes from requirements.txt on first use.
SCALE ?= quick
PORT ?= 8000
VENV_PYTHON := .venv/bin/python
# The first Python of 3.11 or later; a name on PATH may be a shim without a Python behind it.
FIND_PYTHON = for p in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done
# The matrix of ci/ablations.yml is meant by its scale, by a study, and by a cluster. SCALE=smoke is a scale of it too.
MATRIX = $(filter ablations,$(SCALE))$(STUDY)$(DASK)
SWEEP = ci/sweep.py $(if $(filter smoke,$(SCALE)),--smoke) $(if $(STUDY),--study $(STUDY)) \
	$(if $(JOBS),--jobs $(JOBS)) $(if $(DASK),--dask $(DASK))
# As many processes as cores, each with one thread (tests/conftest.py); the tests of a file share its fixtures.
PYTEST = $(VENV_PYTHON) -m pytest -q -n logical --maxprocesses 8 --dist loadfile
ROOT_FLAG = $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help book pdf test test-slow test-all experiments bench bench-gpu lab serve clean distclean venv

help:  ## list what there is
	@echo "make TARGET [SCALE=smoke|quick] [PORT=8000]"
	@echo "make experiments SCALE=full [SET=cub|cars|sop|inshop] [ONLY=RECIPE]"
	@echo "make experiments SCALE=ablations [STUDY=NAME] [JOBS=N] [DASK=tcp://host:port]"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

book: venv  ## run the experiments and the chapters, build the pages, say where they are
	@$(VENV_PYTHON) ci/build_book.py --scale $(SCALE)

pdf: book  ## print the pages to one file, _build/book.pdf, about a minute; needs Chromium
	@$(VENV_PYTHON) ci/make_pdf.py

test: venv  ## run the tests but the slow ones, a few minutes; none needs a network
	@$(PYTEST) -m "not slow"

test-slow: venv  ## run the slow tests: Triton's interpreter, processes that are killed, the PDF
	@$(PYTEST) -m slow

test-all: test test-slow  ## run every test

experiments: venv  ## run the experiments alone; SCALE=full: the benchmarks, hours on a GPU; ablations: the matrix
	@$(VENV_PYTHON) $(if $(MATRIX),$(SWEEP),ci/execute.py --scale $(SCALE) --experiments $(if $(SET),--set $(SET)) $(if $(ONLY),--only $(ONLY)))

bench: venv  ## measure speed relative to what it replaces, about 6 minutes: data/results/bench-cpu.json
	@$(VENV_PYTHON) ci/bench

bench-gpu: venv  ## the same on a GPU: data/results/bench-gpu.json
	@$(VENV_PYTHON) ci/bench --device cuda

lab: venv  ## open the chapters in JupyterLab
	@$(VENV_PYTHON) -m jupyterlab --notebook-dir=book $(ROOT_FLAG)

serve: venv  ## serve the built pages on 127.0.0.1
	@$(VENV_PYTHON) ci/serve.py --port $(PORT)

clean:  ## remove what was built; .venv and data stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf .venv mdrlib.egg-info book/mdrbook.egg-info

venv:
	@python=$$($(FIND_PYTHON)); if [ -z "$$python" ]; then \
	echo "No Python 3.11 or later was found. Install one (Debian: apt-get install python3 python3-venv)," \
	"or name one: make book PYTHON=/path/to/python3.12"; exit 1; fi; "$$python" ci/install.py
