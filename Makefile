# The few words that a user needs; CMake does the work. `make help` lists them.
BUILD ?= build
PREFIX ?= /usr/local
CMAKE_ARGS ?=
# One job per core, but no more than memory holds: a file that includes libtorch takes about 1.5 GB.
JOBS ?= $(shell awk -v cores=$$(nproc) '/MemAvailable/ {n = int($$2 / 1.6e6); \
	print n < 1 ? 1 : n < cores ? n : cores}' /proc/meminfo)
# A PyTorch that was asked for by name goes before any that is found.
TORCH_ARGS = $(if $(LOCUS_TORCH),"-DCMAKE_PREFIX_PATH=$$(echo $(CURDIR)/.venv/lib/python3*/site-packages/torch)")
export LOCUS_TORCH

.PHONY: program build demo test test-packages bench bench-locality bench-evolution bench-elastic goals check format docs setup install clean help
.DEFAULT_GOAL := program

program: $(BUILD)/build.ninja ## build the program alone, build/locus (default)
	@cmake --build $(BUILD) -j $(JOBS) --target locus_cli

build: $(BUILD)/build.ninja ## build everything, the tests too
	@cmake --build $(BUILD) -j $(JOBS)

demo: ## everything: corpus, training (about 5 minutes), evaluation, samples, report
	@tools/demo.sh

test: build test-packages ## build and run all tests
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

test-packages: ## install what tests compare with into .venv: transformers and others
	@tools/setup.sh --test-packages

bench: $(BUILD)/build.ninja test-packages ## run the benchmarks (at most 25 minutes), or one: make bench THEME=moe_layer
	@cmake -S . -B $(BUILD) -DLOCUS_BENCHMARKS=ON > $(BUILD)/bench-configure.log
	@cmake --build $(BUILD) -j $(JOBS) --target locus_cli locus_bench
	@python3 benchmarks/run.py --build $(BUILD) $(if $(THEME),--theme $(THEME))

bench-locality: $(BUILD)/build.ninja ## LocMoE and LocMoE+ on an emulated cluster: hours; goes on where it was stopped
	@cmake --build $(BUILD) -j $(JOBS) --target locus_cli
	@python3 benchmarks/locality/run.py --build $(BUILD)

bench-evolution: $(BUILD)/build.ninja ## EvoMoE and its baselines on three kinds of model: hours; goes on where it was stopped
	@cmake --build $(BUILD) -j $(JOBS) --target locus_cli
	@python3 benchmarks/evolution/run.py --build $(BUILD)

bench-elastic: $(BUILD)/build.ninja ## one training for every size, against one for each: hours; goes on where it was stopped
	@cmake --build $(BUILD) -j $(JOBS) --target locus_cli
	@python3 benchmarks/elastic/run.py --build $(BUILD)

goals: ## all rows that the benchmarks have kept: goals met and missed
	@python3 benchmarks/run.py --goals

check: ## style and layer rules
	@python3 tools/check_layers.py
	@tools/check_format.sh

format: ## clang-format all sources in place
	@tools/check_format.sh --fix

docs: program ## write docs/reference/ anew, from what the program says
	@tools/make_docs.sh $(BUILD)/locus

setup: ## install what is missing: packages with apt-get, libtorch into .venv
	@mkdir -p $(BUILD)
	@tools/setup.sh
	@touch $(BUILD)/setup.stamp

install: build ## install program, library and CMake package below PREFIX (/usr/local)
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean: ## remove build/ (not .venv/, not runs/)
	@rm -rf $(BUILD)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

$(BUILD)/setup.stamp: tools/setup.sh
	@$(MAKE) --no-print-directory setup

# Ninja configures again by itself when a CMake file changes; LOCUS_TORCH and CMAKE_ARGS must be told.
$(BUILD)/build.ninja: $(if $(LOCUS_TORCH)$(CMAKE_ARGS),setup,| $(BUILD)/setup.stamp)
	@cmake -S . -B $(BUILD) -G Ninja $(TORCH_ARGS) $(CMAKE_ARGS)
