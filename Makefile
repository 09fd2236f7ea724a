# `make demo`, `make test`, `make docs`. Each makes .venv by itself; nothing else needs to be installed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# The tests are shared out to a process a core, each of some hundred MB: four at most.
SHARED := -n logical --maxprocesses 4 --dist worksteal

.PHONY: demo test slow docs notebooks dist clean

# The main job: compare the 26 hand-written gradients with autograd's, train on the embedded names, draw 20 new ones.
demo: $(READY)
	@$(BIN)/backhand check
	@echo
	@echo "Training on the embedded names with the hand-written backward"
	@echo
	@$(BIN)/backhand train names --out runs/demo --overwrite

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest $(SHARED) -m 'not slow'

# The long tests as well: 200,000 steps on the lecture's list among them, and kills at every file operation.
slow: $(READY)
	$(BIN)/pytest $(SHARED) -m 'slow or not slow'

# The documentation as a site, in site/; a warning, such as a link that leads nowhere, is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Built: site/index.html"

# A wheel and an sdist in dist/, tried outside this folder: the sdist's tests on the installed wheel.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -c 'import hatchling.build as b; b.build_wheel("dist"); b.build_sdist("dist")'
	$(BIN)/pytest -m slow tests/test_distribution.py

# The notebooks of notebooks/, from the course and from notebooks/layers.py.
notebooks: $(READY)
	$(BIN)/python notebooks/make.py

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv (once; PyTorch is large, so this takes a minute or more) ..."
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("backhand needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@echo "Compiling the native engine (once; some seconds) ..."
	@$(BIN)/python -c 'from backhand.engines import native; native.warm()'
	@touch $@

clean:
	rm -rf .venv build dist site
