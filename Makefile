# Two commands do everything on a fresh machine with Python 3.10+, make and git:
#   make demo    environment, data, training, evaluation, report
#   make test    environment, everything that CI checks
# and while you work, in a minute and a half:
#   make quick   the modules in step, lint, types, and the tests of what you changed
PYTHON ?= python3
BIN := .venv/bin
GRADERS := .venv-graders/bin
LOWEST := .venv-lowest/bin
# tests that need nothing but what pip installs, and pytest
CORE_TESTS := tests/project/test_lowest.py tests/method/test_wian.py tests/method/test_models.py tests/method/test_core.py tests/method/test_metrics.py tests/nn/test_tails.py tests/longtail/test_bcl.py tests/longtail/test_classifiers.py tests/method/test_labels.py tests/data/test_bags.py tests/data/test_load.py tests/synfew/test_generate.py tests/synfew/test_metadata.py tests/train/test_loop.py tests/train/test_run.py

.PHONY: demo test quick pages results sync lab sheets slides graders lowest docs clean help
help:
	@sed -n 's/^#   //p' Makefile; echo "make pages   run every page and save its outputs"; echo "make sync    clean the notebooks, export the modules, write the sheets, the bibliography and the paper"; echo "make lab     open the book in JupyterLab"; echo "make docs    build the site into _docs/"; echo "make sheets  make the students' copies of the lab sheets, and the teachers' in _teachers/"; echo "make slides  a deck of slides for each session of the teaching plans, in _slides/"; echo "make lowest  tests with the lowest versions that are allowed (Python 3.10)"; echo "make results make the files of results/ that are not of today's code; ARGS=--plan says which, and how long it takes"; echo "make graders compare the marks of the sheets with those of nbgrader and otter-grader (about 15 minutes)"

# an interrupted creation leaves no stamp, so the next call repairs it
.venv/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "micacl needs Python 3.10 or newer; found %d.%d. Name another one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/.user: .venv/.made settings.ini setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.dev: .venv/.made settings.ini setup.py pyproject.toml requirements-dev.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt --editable '.[dev]'
	touch $@ .venv/.user

demo: .venv/.user
	$(BIN)/micacl demo --out demo

test: .venv/.dev
	$(BIN)/python tools/check.py

quick: .venv/.dev
	$(BIN)/python tools/check.py quick

pages: .venv/.dev
	$(BIN)/python tools/pages.py --save

# ARGS="--plan", ARGS="ablations errors", ARGS="--fer2013 FOLDER"
results: .venv/.dev
	$(BIN)/python tools/results.py $(ARGS)

sync: .venv/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev-clean
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev-export
	$(BIN)/python tools/lab.py
	$(BIN)/python tools/references.py
	$(BIN)/python tools/paper.py

lab: .venv/.dev
	$(BIN)/python -m jupyterlab nbs/00_tour.ipynb

sheets: .venv/.dev
	$(BIN)/python tools/lab.py
	$(BIN)/python tools/lab.py --instructor _teachers

slides: .venv/.dev
	$(BIN)/python tools/slides.py
# nbgrader and otter-grader bring many libraries along, so they get an environment of their own
.venv-graders/.made: settings.ini setup.py pyproject.toml tools/graders-requirements.txt
	$(PYTHON) -m venv .venv-graders
	$(GRADERS)/python -m pip install --quiet --requirement tools/graders-requirements.txt --editable .
	touch $@

graders: .venv-graders/.made
	$(GRADERS)/python tools/graders.py $(SHEETS) --out results/graders.json

# the lowest versions that settings.ini allows, in an environment of their own
.venv-lowest/.made: settings.ini setup.py pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet uv
	$(LOWEST)/python -m uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct --editable .
	$(LOWEST)/python -m uv pip install --quiet --python $(LOWEST)/python 'pytest>=8.3' 'hypothesis>=6.100'
	touch $@

lowest: .venv-lowest/.made
	MICACL_LOWEST=1 $(LOWEST)/python -m pytest -q $(CORE_TESTS)

docs: .venv/.dev
	$(BIN)/python tools/site.py

clean:
	rm -rf .venv .venv-graders .venv-lowest build dist *.egg-info demo _docs _proc _teachers _slides
