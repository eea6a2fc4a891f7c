# SPDX-License-Identifier: Apache-2.0
# `make help` lists the words. Every target that needs it sets up the virtual environment by itself; nothing is
# written outside this checkout.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := shared services clients deploy docs tests bench examples
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo run fmt lint types test test-crash test-docker test-xen xen-shell bench bench-xen docs golden clean test-switch test-scale test-cluster

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

$(READY): requirements.lock pyproject.toml
	@echo "==> virtual environment in .venv (locked versions)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --progress-bar on --require-hashes -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY) ## virtual environment with locked versions, in .venv

demo: setup ## run the whole stack and drive it, showing every command
	@$(BIN)/python deploy/local/demo.py

run: setup ## run the stack in the foreground; Ctrl-C stops it, machines survive; BACKEND=xen: on a real Xen
	@BACKEND=$(BACKEND) exec $(BIN)/python deploy/local/run.py

fmt: setup ## format the code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: setup ## style, import contracts
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports --no-cache

types: setup ## mypy --strict
	$(BIN)/mypy

test: setup ## all tests that need no root, no docker and no Xen
	$(BIN)/pytest -n auto -m "not docker" tests

# tests/xenopsd/steps/samples.py says what `make test` takes of it.
test-crash: setup ## every step of every operation fails, is cancelled, times out, is killed, loses its bus
	CRASH=all $(BIN)/pytest -n auto tests/xenopsd/steps tests/xenopsd/kill tests/xenopsd/migration tests/xenopsd/store tests/system/test_crash_loop.py

# tests/scale/sizes.py says how many; `make test` has a few of everything.
test-scale: setup ## 10,000 machines, 2000 running, 64 orchestrators, storms of events, slow and dead subscribers
	SCALE=all $(BIN)/pytest -n 2 tests/scale

test-switch: setup ## the switch against RabbitMQ, SWITCH_DIFF random command sequences (2000)
	SWITCH_DIFF=$(or $(SWITCH_DIFF),2000) $(BIN)/pytest -n 0 tests/message_switch/test_differential.py

# In networks, mounts and processes of its own: nothing of it outlives the command. CLUSTER=all strikes every node.
test-cluster: setup ## xenopsds of two hosts on three RabbitMQ nodes that die and are cut off (needs root)
	CLUSTER=$(or $(CLUSTER),short) unshare --net --mount --pid --fork --kill-child --mount-proc $(BIN)/pytest -n 0 tests/cluster

test-docker: setup ## build the images and test the composed stack (needs a docker engine)
	deploy/docker/test.sh

# TEST chooses: `make test-xen TEST=test_rig.py`, `make test-xen TEST="test_rig.py -k grub -x"`.
test-xen: setup ## the acceptance suite on the real Xen, in an emulated host (needs root); TEST=file::name chooses
	$(BIN)/python -m tests.xen.rig test $(TEST)

xen-shell: setup ## a shell in that host
	@$(BIN)/python -m tests.xen.rig shell

bench: setup ## measure ratios against peers; writes bench/latest*.json
	$(BIN)/python bench/run.py
	$(BIN)/python bench/switch.py
	$(BIN)/python bench/migrate.py

bench-xen: setup ## measure against xl on the real Xen (needs root); rewrites a section of docs/performance.md
	$(BIN)/python -m bench.xen

docs: setup ## derive the manual from the interfaces, the drawings of states from their tables
	$(BIN)/python -m xenops.derive
	$(BIN)/python docs/states/draw.py

golden: setup docs ## rewrite the golden files, to be read as a diff
	UPDATE_GOLDEN=1 $(BIN)/pytest -q tests -k golden

clean: ## remove what was made here, except the machines of `make run`
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache bench/latest*.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
