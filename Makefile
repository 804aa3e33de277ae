# contrail-mesos: every chore by name. `make` lists them.
#
# Each target installs what it needs itself, and asks for root only where it needs it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Cargo locks its target directory and runs its jobs on all cores by itself.
.NOTPARALLEL:

# `cargo build --release` writes a library of this name as well, without the module in it. So the
# module is built in a directory of its own, and only the finished library is put beside the
# binaries.
BUILT := target/module/module/libcontrail_mesos.so
OURS := $(CURDIR)/target/release/libcontrail_mesos.so

# The library that demo, test, soak and bench load into the agent. Another one can be named.
MODULE ?= $(OURS)
# What module is built on, read by build.rs: a pinned Mesos source tree, its build directory, or
# an installation with module dependencies. None of them: the facts of the 1.11.0 ABI.
MESOS_TREE ?=
MESOS_BUILD ?=
MESOS_PREFIX ?=
export MODULE
ifneq ($(MESOS_TREE),)
export MESOS_TREE
endif
ifneq ($(MESOS_BUILD),)
export MESOS_BUILD
endif
ifneq ($(MESOS_PREFIX),)
export MESOS_PREFIX
endif
# Passed on to demo, soak, bench and to the test runner.
ARGS ?=

TESTBED_PACKAGES = $$(grep -v '^\#' mesos-module-tests/mesos/packages)
say = @printf '==> %s\n'

.PHONY: help demo demo-bridge demo-contrail demo-manager test lint soak bench module audit clean
.PHONY: root toolchain packages mesos binaries ready

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: ready ## Run the module in real Mesos 1.11.0 clusters, and watch (root)
	$(say) 'demo'
	@target/release/demo $(ARGS)

demo-bridge: ready ## The first act of demo alone: one host, the embedded bridge (root)
	$(say) 'demo, act 1'
	@target/release/demo bridge $(ARGS)

demo-contrail: ready ## The second act of demo alone: two hosts, networks of Contrail (root)
	$(say) 'demo, act 2'
	@target/release/demo contrail $(ARGS)

demo-manager: ready ## The third act of demo alone: managers that adopt, follow and take over (root)
	$(say) 'demo, act 3'
	@target/release/demo manager $(ARGS)

test: ready ## Run all tests, those on the real Mesos included (root)
	@.ci/test $(ARGS)

lint: ## Check format, warnings, documentation, shell scripts and house rules
	@.ci/lint

soak: ready ## Run the long tests: crashes at random moments, for hours (root)
	$(say) 'soak'
	@target/release/soak $(ARGS)

bench: ready ## Measure against network/cni and the kernel's own floor (root)
	$(say) 'bench'
	@target/release/bench $(ARGS)

module: toolchain ## Build the library for the agent [MESOS_TREE=… MESOS_BUILD=… | MESOS_PREFIX=…]
	@.ci/packages g++
	$(say) 'building the module'
	@if [ -n "$(MESOS_TREE)" ] && [ -z "$(MESOS_BUILD)" ]; then cpp-shim/mesos-tree-headers.sh "$(MESOS_TREE)"; fi
	@cargo rustc --profile module --locked --lib --crate-type cdylib \
	    --features module --target-dir target/module
	@mkdir -p target/release
	@# Renamed into place: an agent that has the old library loaded keeps the old file.
	@cmp -s $(BUILT) $(OURS) || { cp $(BUILT) $(OURS).new && mv $(OURS).new $(OURS); }
	$(say) 'module: target/release/libcontrail_mesos.so'

audit: toolchain ## Check licences, banned crates and sources (cargo-deny, without its advisories)
	@.ci/audit

clean: ## Remove everything that was built or fetched
	$(say) 'removing target/'
	@rm -rf target

# What demo, test, soak and bench have in common.
ready: root toolchain packages
	@if [ "$(MODULE)" = "$(OURS)" ]; then $(MAKE) --no-print-directory module; \
	 elif [ ! -f "$(MODULE)" ]; then echo 'MODULE=$(MODULE): no such file' >&2; exit 1; \
	 else echo '==> module: $(MODULE)'; fi
	@$(MAKE) --no-print-directory binaries mesos

root:
	@if [ "$$(id -u)" != 0 ]; then \
	  echo 'needs root, to make network namespaces: sudo env "PATH=$$PATH" make $(MAKECMDGOALS)' >&2; \
	  exit 1; \
	fi

toolchain:
	@command -v cargo >/dev/null || { \
	  echo 'cargo is not in PATH; under sudo keep yours: sudo env "PATH=$$PATH" make $(MAKECMDGOALS)' >&2; \
	  exit 1; \
	}

packages:
	@.ci/packages $(TESTBED_PACKAGES)

binaries:
	$(say) 'building the binaries'
	@# All of the workspace at once, for cargo would build it anew for each selection of packages.
	@cargo build --release --locked --workspace --bins

mesos:
	$(say) 'the real Mesos 1.11.0'
	@mesos-module-tests/mesos/install.sh
