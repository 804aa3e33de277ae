# contrail-mesos: every task by name. `make` lists them.
#
# Each target installs what it needs itself, and asks for root only where it needs it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Cargo locks its target directory and runs its jobs on all cores by itself.
.NOTPARALLEL:

# demo and test share one build, of the dev profile. soak and bench measure what is shipped: release
# programs, and the library for the agent, which has a profile of its own.
BUILT ?= $(or $(CARGO_TARGET_DIR),target)
LIBRARY := $(BUILT)/module/libcontrail_mesos.so

# Another library for demo, test, soak and bench to load into the agent, by its path.
MODULE ?=
# What the library is built on, read by build.rs: a pinned Mesos source tree, its build directory, or
# an installation with module dependencies. None of them: the recorded layout of the 1.11.0 ABI.
MESOS_TREE ?=
MESOS_BUILD ?=
MESOS_PREFIX ?=
# Also passed on if given: MESOS_DEFINES, the macros of a Mesos with another configuration, and
# MESOS_INCLUDE_DIRS, include directories of libraries that it was built with instead of bundled ones.
ifneq ($(MODULE),)
export MODULE
endif
# Only the library is built on a Mesos tree: programs do not link to libmesos.
on_abi = env -u MESOS_TREE -u MESOS_BUILD -u MESOS_PREFIX
# What libraries and programs say about their build; unknown outside of a repository. Builds of the dev profile do
# without it: another commit would compile them all again.
CONTRAIL_MESOS_COMMIT ?= $(shell git describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null)
CONTRAIL_MESOS_COMMIT_DATE ?= $(shell git log -1 --format=%cs 2>/dev/null)
of_commit = env CONTRAIL_MESOS_COMMIT=$(CONTRAIL_MESOS_COMMIT) CONTRAIL_MESOS_COMMIT_DATE=$(CONTRAIL_MESOS_COMMIT_DATE)
on_tree = $(of_commit) $(foreach name,MESOS_TREE MESOS_BUILD MESOS_PREFIX,$(if $($(name)),$(name)=$($(name))))
# The paths of this machine are not in what is shipped: it is the same wherever it is built.
paths_as = $(1)$(CURDIR)=/contrail-mesos $(1)$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
shipped = RUSTFLAGS="$(strip $(RUSTFLAGS) $(call paths_as,--remap-path-prefix=))" \
  CFLAGS="$(strip $(CFLAGS) $(call paths_as,-ffile-prefix-map=))" CXXFLAGS="$(strip $(CXXFLAGS) $(call paths_as,-ffile-prefix-map=))"
# Passed on to demo, soak, bench and to the test runner.
ARGS ?=
# Where make install puts what make release has built.
DESTDIR ?=
PREFIX ?= /usr/local
# Man pages, completions and bills of materials, in man/, completions/{bash,fish,zsh} and sbom/: install and
# dist take what is there.
ASSETS := $(BUILT)/assets
# The programs that make the packages, at their versions.
TOOLS := $(BUILT)/tools
PACKAGERS := cargo-deb@3.8.0 cargo-generate-rpm@0.21.1
CHECKSUMS := block-buffer digest keccak md-5 rpm sha1 sha2 sha3
# The bare Debian in which the tests install the packages.
BARE_ROOT := $(BUILT)/debian/root
# How many damaged inputs soak gives to each parser.
FUZZ_ROUNDS ?= 200000

# What the headers of Mesos include, and what generates those that a tree without a build lacks.
module_packages = g++ \
  $(if $(MESOS_TREE)$(MESOS_PREFIX),libcurl4-openssl-dev libssl-dev) \
  $(if $(MESOS_TREE),$(if $(MESOS_BUILD),,patch python3 python3-pip python3-venv))
TESTBED_PACKAGES = $$(grep -v '^\#' mesos-module-tests/mesos/packages)
say = @printf '==> %s\n'

.PHONY: help demo demo-bridge demo-contrail demo-manager demo-overlay demo-star demo-services check lint test soak bench module release man site install dist audit clean
.PHONY: root toolchain compiler packages testbed programs release-programs mesos assets sbom packagers linters bare-root

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: testbed ## Run the module in real Mesos 1.11.0 clusters, and watch (root)
	$(say) 'demo'
	@$(BUILT)/debug/demo $(ARGS)

demo-bridge: testbed ## The first part of the demo alone: one host, the bridge provider (root)
	$(say) 'demo, part 1'
	@$(BUILT)/debug/demo bridge $(ARGS)

demo-contrail: testbed ## The second part of the demo alone: two hosts, Contrail networks (root)
	$(say) 'demo, part 2'
	@$(BUILT)/debug/demo contrail $(ARGS)

demo-manager: testbed ## The third part of the demo alone: managers adopt, follow and fail over (root)
	$(say) 'demo, part 3'
	@$(BUILT)/debug/demo manager $(ARGS)

demo-overlay: testbed ## The fourth part of the demo alone: overlays on three hosts, without Contrail (root)
	$(say) 'demo, part 4'
	@$(BUILT)/debug/demo overlay $(ARGS)

demo-star: testbed ## The fifth part of the demo alone: groups that are isolated across three hosts (root)
	$(say) 'demo, part 5'
	@$(BUILT)/debug/demo star $(ARGS)

demo-services: testbed ## The sixth part of the demo alone: virtual IPs, names and a load balancer (root)
	$(say) 'demo, part 6'
	@$(BUILT)/debug/demo services $(ARGS)

check: toolchain compiler ## Format, warnings, and every test that needs neither root nor Mesos
	@.ci/check $(ARGS)

lint: toolchain ## Check format, warnings, documentation, shell scripts and the rules of CONTRIBUTING.md
	@.ci/lint

test: testbed packagers linters bare-root ## Run all tests, those on the real Mesos included (root)
	@.ci/test $(ARGS)

soak: root toolchain packages release-programs mesos ## Run the long tests: crashes at random moments, for hours (root)
	$(say) 'damaged input for every parser, and random changes of the allocations'
	@CONTRAIL_FUZZ_ROUNDS=$(FUZZ_ROUNDS) cargo test --locked --workspace --lib -- damaged_input random_changes --nocapture
	$(say) 'soak'
	@MODULE="$${MODULE:-$(LIBRARY)}" $(BUILT)/release/soak $(ARGS)

bench: root toolchain packages release-programs mesos ## Measure against network/cni and the kernel's own floor (root)
	$(say) 'bench'
	@MODULE="$${MODULE:-$(LIBRARY)}" $(BUILT)/release/bench $(ARGS)

module: toolchain ## Build the libraries for Mesos [MESOS_TREE=… MESOS_BUILD=… | MESOS_PREFIX=…]
	@.ci/packages $(module_packages)
	$(say) 'building the libraries for Mesos'
	@if [ -n "$(MESOS_TREE)" ] && [ -z "$(MESOS_BUILD)" ]; then cpp-shim/mesos-tree-headers.sh "$(MESOS_TREE)"; fi
	@# The isolator's last: as a dependency of the others it is linked without optimizations.
	@for package in contrail-mesos-manager contrail-mesos-node contrail-mesos; do \
	  $(on_tree) $(shipped) cargo rustc --profile module --locked --package $$package --lib --crate-type cdylib; \
	done
	$(say) 'libraries: $(LIBRARY), $(BUILT)/module/libcontrail_mesos_{node,manager}.so'

release: module ## Build everything that is shipped: the library and the programs
	$(say) 'building the programs'
	@$(on_abi) $(of_commit) $(shipped) cargo build --release --locked --package contrail-mesos --package contrail-mesos-node --package contrail-mesos-manager --bins
	$(say) 'programs: $(BUILT)/release/{contrail-mesos,contrail-mesos-cni,contrail-mesos-node,contrail-mesos-manager}'

man: programs ## Write manual pages and shell completions to target/assets
	@.ci/man $(BUILT)/debug $(ASSETS)
	$(say) 'manual pages: $(ASSETS)/man; completions: $(ASSETS)/completions'

site: toolchain ## Build the documentation as a site, target/site/index.html
	@.ci/site

install: assets ## Install what make release has built [DESTDIR=… PREFIX=/usr/local]
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install $(BUILT)/module $(BUILT)/release $(ASSETS)

dist: release assets sbom packagers ## Make the deb and rpm packages [MESOS_TREE=… MESOS_BUILD=… | MESOS_PREFIX=…]
	$(say) 'packages'
	@CARGO_TOOLS=$(TOOLS) packaging/dist $(BUILT)/dist $(BUILT)/module $(BUILT)/release $(ASSETS)

audit: toolchain ## Check licences, banned crates and sources (cargo-deny, without its advisories)
	@.ci/audit

clean: ## Remove everything that was built or fetched
	$(say) 'removing $(BUILT)/'
	@rm -rf $(BUILT)

# What demo and test have in common.
testbed: root toolchain packages programs mesos
	@if [ -n "$(MODULE)" ] && [ ! -f "$(MODULE)" ]; then echo 'MODULE=$(MODULE): no such file' >&2; exit 1; fi

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

compiler:
	@.ci/packages g++

packages:
	@.ci/packages $(TESTBED_PACKAGES)

programs:
	$(say) 'building the programs and the library (dev profile)'
	@# The whole workspace at once: another selection of packages has other features, and builds.
	@$(on_abi) cargo build --locked --workspace --bins

release-programs: module
	$(say) 'building the programs (release profile)'
	@$(on_abi) $(shipped) cargo build --release --locked --workspace --bins

mesos:
	$(say) 'the real Mesos 1.11.0'
	@mesos-module-tests/mesos/install.sh

# Man pages and completions of what make release has built.
assets:
	@.ci/man $(BUILT)/release $(ASSETS)

sbom: toolchain
	@$(MAKE) --no-print-directory packagers PACKAGERS=cargo-cyclonedx@0.5.9
	$(say) 'software bills of materials'
	@packaging/sbom $(TOOLS) $(ASSETS)/sbom

packagers: toolchain
	@.ci/packages dpkg-dev
	@# Dev builds are made in a third of the time; only the checksums of rpm must be fast.
	@for tool in $(PACKAGERS); do \
	  if ! grep -qsF "\"$${tool%@*} $${tool#*@} " $(TOOLS)/.crates.toml; then \
	    printf '==> building %s, once\n' "$$tool"; \
	    case $$tool in *rpm*) fast='$(CHECKSUMS:%=--config profile.dev.package.%.opt-level=3)' ;; *) fast= ;; esac; \
	    cargo install --quiet --locked --profile dev --config profile.dev.debug=false $$fast --no-default-features \
	      --root $(TOOLS) --target-dir $(TOOLS)/build "$$tool"; \
	  fi; \
	done

# What judges the packages in the tests.
linters:
	@.ci/packages lintian rpmlint systemd

bare-root: root
	@packaging/bare-root $(BARE_ROOT)
