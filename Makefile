# A thin front over meson and ninja for people who have just cloned this. Everything it does is a script in tools/ or a
# meson target; with the libraries installed, `meson setup build && ninja -C build` works alone.
BUILD ?= build
JOBS  ?=
PORT  ?= 8080
HOST  ?= 127.0.0.1
MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
DEFAULT_MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
GEMMA_MODEL := models/gemma-3-270m-q4_k_m.gguf
PY     = build/venv/bin/python

.PHONY: all help setup setup-test setup-deep venv test-venv venv-load model model-gemma build server demo run test test-deep test-cuda bench bench-growth profile \
        random-model load soak fuzz lint image-test clean

all: build

help:
	@echo 'make demo       set up, build, fetch the model, show one long document being read, adapted to and answered'
	@echo 'make run        the same set-up, then serve on $(HOST):$(PORT) until Ctrl-C (MODEL=PATH for your own)'
	@echo 'make test       every test but the slow ones'
	@echo 'make test-deep  sanitizers, the second model, kills and faults, GuideLLM, a soak, ten seconds of each fuzz target'
	@echo 'make test-cuda  the CUDA kernels on the CPU under sanitizers, with planted mistakes that have to be caught'
	@echo 'make bench      speed on this machine, also with many users, as a table and as build/bench.json'
	@echo 'make bench-growth  costs as contexts, streams and adapters grow, against theory; plots in build/ (SVG=FOLDER)'
	@echo 'make profile    where the time of each kind of step goes, by operation (MODEL=PATH, DEPTH=N)'
	@echo 'make random-model TYPE=Q8_0|Q4_0|Q4_K_M|BF16 OUT=PATH   a Llama of 1.1 B random parameters, to measure with'
	@echo 'make load       users with long documents at ever higher rates: build/load.json, build/load.svg (LOAD_FLAGS=...)'
	@echo 'make soak       half an hour of load while things break around the server (SOAK_SECONDS=N)'
	@echo 'make fuzz       fuzz until stopped (FUZZ_SECONDS=N a target, TARGET=name for one)'
	@echo 'make image-test the steps of docker/Dockerfile in fresh Debian folders, without Docker (root, minutes)'
	@echo 'make lint       layers, sizes, format'
	@echo 'make clean      remove what was built (models/ stays)'

# apt installs only what is missing, and only then needs root.
setup:
	@sh tools/setup.sh

setup-deep:
	@sh tools/setup.sh deep

venv: setup
	@sh tools/venv.sh

setup-test:
	@sh tools/setup.sh test

test-venv: setup-test
	@sh tools/venv.sh tests/requirements.txt

# GuideLLM, for make test-deep only: a venv of its own, about 600 MB with what it needs.
venv-load: setup-test
	@VENV=build/venv-load sh tools/venv.sh tests/bench/load/requirements.txt

$(BUILD)/build.ninja: | setup
	meson setup $(BUILD)

build: setup $(BUILD)/build.ninja
	@ninja -C $(BUILD) $(if $(JOBS),-j$(JOBS)) all cuda-module

# All that demo and run want of it: the tests' programs are most of a build.
server: setup $(BUILD)/build.ninja
	@ninja -C $(BUILD) $(if $(JOBS),-j$(JOBS)) server/qttt

model: venv
	@$(PY) tools/fetch_model.py smollm2

model-gemma: venv
	@$(PY) tools/fetch_model.py gemma3

# The user's own MODEL is used as it is; the default one is fetched.
demo: server $(if $(filter $(DEFAULT_MODEL),$(MODEL)),model)
	@python3 tools/demo.py --binary $(BUILD)/server/qttt --model '$(MODEL)'

run: server $(if $(filter $(DEFAULT_MODEL),$(MODEL)),model)
	@sh tools/run.sh $(BUILD)/server/qttt '$(MODEL)' '$(HOST)' '$(PORT)'

test: setup-test build test-venv model
	@python3 tools/run_tests.py fast --build $(BUILD)

test-deep: setup-deep build test-venv venv-load model model-gemma
	@python3 tools/run_tests.py deep --build $(BUILD)

test-cuda: setup-deep $(BUILD)/build.ninja
	@python3 tools/run_tests.py cuda --build $(BUILD)

bench: build model
	@$(BUILD)/server/qttt bench --model '$(MODEL)' --loss-text LICENSE --json $(BUILD)/bench.json
	@python3 tools/bench_http.py --binary $(BUILD)/server/qttt --model '$(MODEL)' --json $(BUILD)/bench.json

bench-growth: server model
	@for part in context streams adapters; do \
	    $(BUILD)/server/qttt bench --model '$(MODEL)' --part growth-$$part --json $(BUILD)/growth_$$part.json || exit 1; done
	@rm -f $(BUILD)/growth_gemma.json; ! [ -f $(GEMMA_MODEL) ] || \
	    $(BUILD)/server/qttt bench --model $(GEMMA_MODEL) --part growth-context --json $(BUILD)/growth_gemma.json
	@python3 tests/bench/growth.py $(BUILD)/growth_*.json --svg $(or $(SVG),$(BUILD))

profile: server $(if $(filter $(DEFAULT_MODEL),$(MODEL)),model)
	@$(BUILD)/server/qttt bench --model '$(MODEL)' --profile --depth $(or $(DEPTH),2048) --json $(BUILD)/profile.json

random-model:
	@python3 tests/tools/random_model.py '$(TYPE)' '$(OUT)'

load: build $(if $(filter $(DEFAULT_MODEL),$(MODEL)),model)
	@python3 tests/bench/load/load.py --binary $(BUILD)/server/qttt --model '$(MODEL)' --json $(BUILD)/load.json \
	    --svg $(BUILD)/load.svg $(LOAD_FLAGS)

soak: build test-venv model
	@$(PY) tests/bench/load/soak.py --binary $(BUILD)/server/qttt --small-from '$(DEFAULT_MODEL)'

fuzz: setup-deep venv
	@sh tools/fuzz.sh '$(FUZZ_SECONDS)' '$(TARGET)'

# What docker build and docker run would do, in fresh Debian folders: root, debootstrap, a mirror, some minutes.
image-test: model
	@python3 tests/tools/docker_steps.py

lint: test-venv $(BUILD)/build.ninja
	@python3 tools/run_tests.py lint --build $(BUILD)

clean:
	rm -rf build build-*
