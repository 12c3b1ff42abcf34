# Everything runs in .venv, which `make setup` fills with the versions of constraints.txt.
# Without make: README.md lists the same commands.

SCALE ?= smoke
SEEDS ?= 3
CHAPTERS ?=
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
  $(shell $(p) -c 'import sys; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)) python3)

BIN := .venv/bin
STAMP := .venv/complete
TOOLS := $(BIN)/python -m course_tools
CHOSEN = $(if $(CHAPTERS),--chapters $(CHAPTERS))

GRADING := .venv-grading/bin/python
GRADING_STAMP := .venv-grading/complete

.PHONY: help setup course book run publish repeats confirm golden check test quick portable race study bench address rename clean \
  assignments grade quiz mutants grading-test
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1|/' | \
	  awk -F'|' '{ printf "%-15s %s\n", $$1, $$2 }'
	@echo
	@echo 'SCALE is smoke, page or source. CHAPTERS is a list such as "plain_cnn stem" or ladder/03; all if left out.'

setup: $(STAMP) ## fill .venv with what the course needs (the other targets do it too)

$(STAMP): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("The course needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Install one, then: make setup PYTHON=/path/to/python3.11")'
	@echo "Setting up .venv with $$($(PYTHON) --version); this takes a few minutes, once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

course: setup ## execute every chapter on built-in data, then build the book
	$(TOOLS) run --scale smoke $(CHOSEN)
	$(TOOLS) book

book: setup ## build the book from the published notebooks
	$(TOOLS) book

run: setup ## execute chapters at a scale: make run SCALE=page CHAPTERS=plain_cnn
	$(TOOLS) run --scale $(SCALE) $(CHOSEN)

publish: setup ## run chapters at the page scale and store their outputs and records
	$(TOOLS) publish $(CHOSEN)

repeats: setup ## run chapters with further seeds and store their records: SEEDS=3
	$(TOOLS) repeats --seeds $(SEEDS) $(CHOSEN)

confirm: setup ## keep stale records and pages whose code still gives the same: BY_HAND="names"
	$(TOOLS) confirm $(CHOSEN) $(if $(BY_HAND),--by-hand $(BY_HAND))

golden: setup ## refresh the golden runs that the tests compare with
	$(TOOLS) golden $(CHOSEN)

check: setup ## say which outputs, records and golden runs are stale
	$(TOOLS) check

test: setup ## run every check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(TOOLS) check
	$(TOOLS) address --check
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(TOOLS) portable --modes bfloat16 --short

quick: setup ## run the checks that take no time: for use while you edit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(TOOLS) check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

portable: setup ## run the sensitive tests as other machines would, and say in which way they fail
	$(TOOLS) portable

race: setup ## train the recipes of chapter 5, say when each mark was passed: RECIPES=imagenette-83
	$(TOOLS) race $(RECIPES) --seeds $(if $(filter command line,$(origin SEEDS)),$(SEEDS),1) $(if $(RECORD),--record)

study: setup ## run a study, go on where it stopped: NAME=norm_seeds LIMIT=30 (minutes); no NAME: list them
	$(TOOLS) study $(NAME) $(if $(LIMIT),--limit $(LIMIT)) $(if $(filter command line,$(origin SCALE)),--scale $(SCALE))

bench: setup ## measure the speed ratios that the course promises
	$(TOOLS) bench

assignments: setup ## build the exercises; a graded edition: VARIANT="your secret seed" (ASSIGNMENTS="ladder/02")
	$(TOOLS) assignments $(ASSIGNMENTS) $(if $(VARIANT),--variant "$(VARIANT)")

$(GRADING_STAMP): requirements-grading.txt constraints.txt pyproject.toml
	@echo "Setting up .venv-grading, which only grading uses; this takes a few minutes, once."
	$(PYTHON) -m venv .venv-grading
	$(GRADING) -m pip install --quiet --disable-pip-version-check -r requirements-grading.txt -c constraints.txt
	$(GRADING) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(GRADING_STAMP)

grade: $(GRADING_STAMP) ## grade submitted notebooks: SUBMISSIONS=folder VARIANT="your secret seed" ASSIGNMENT=ladder/02
	$(GRADING) -m course_tools grade "$(SUBMISSIONS)" $(if $(VARIANT),--variant "$(VARIANT)") \
	  $(if $(ASSIGNMENT),--assignment $(ASSIGNMENT))

quiz: $(GRADING_STAMP) ## export the quiz bank for Moodle (GIFT) and Canvas (QTI)
	$(GRADING) -m course_tools quiz

mutants: $(GRADING_STAMP) ## mutate every solution of the exercises, and count what the checks refuse (an hour)
	$(GRADING) -W ignore -m course_tools mutants $(ASSIGNMENTS)

grading-test: $(GRADING_STAMP) ## run the checks of grading: hostile submissions, gradebook, exports
	$(GRADING) -m pytest -q tests/test_grade.py tests/test_quiz.py

address: setup ## copy the repository's address from _config.yml to where it is used
	$(TOOLS) address

rename: setup ## give older records the names that the scales have today; figures stay
	$(TOOLS) rename

clean: ## remove build and .venv; data stays
	rm -rf build .venv .venv-grading *.egg-info
