# The commands of this project. `make serve` and `make test` are all there is to
# know; both install what they need.

# Outside the checkout: a fresh clone finds RocksDB built.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/registry-target

# Where `make serve` keeps the registry, and more flags for it.
DIR ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/registry
FLAGS ?=
# Flags for the benchmark; `make bench BENCH=--help` lists them.
BENCH ?=

# RocksDB, AWS-LC, zlib-ng and others are compiled; bindgen reads RocksDB's header
# with libclang.
BUILD_PACKAGES = cmake g++ libclang-dev make
# The clients that the tests use, and what the tests build images from.
TEST_PACKAGES = $(BUILD_PACKAGES) busybox-static bzip2 ca-certificates curl docker.io docker-registry \
	e2fsprogs fuse3 gpg libarchive-tools mmdebstrap mount pigz podman procps python3 skopeo tabix umoci \
	util-linux xz-utils zstd
# NodeSource's nodejs, which has npm in it, and Debian's npm exclude each other.
BENCH_PACKAGES = $(BUILD_PACKAGES) ca-certificates docker-registry mmdebstrap \
	$(if $(shell command -v npm),,nodejs npm)

ROOT := $(filter 0,$(shell id -u))
SUDO := $(if $(ROOT),,sudo)

.PHONY: serve test bench deps build-deps test-deps bench-deps rust

serve: build-deps
	cargo build --release --locked
	mkdir -p '$(DIR)'
	exec "$$CARGO_TARGET_DIR/release/registry" serve --dir '$(DIR)' $(FLAGS)

# Built as who you are, run as root: the tests mount file systems and start a
# Docker engine.
test: test-deps
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	cargo test --release --locked --lib --bins --tests --no-fail-fast \
		$(if $(ROOT),,--config "target.'cfg(unix)'.runner='sudo -E'")

bench: bench-deps
	cargo bench --locked --bench registry -- $(BENCH)

# Everything for all of the above.
deps: build-deps test-deps bench-deps

build-deps: rust
	@$(call install,$(BUILD_PACKAGES))

test-deps: rust
	@$(call install,$(TEST_PACKAGES))

bench-deps: rust
	@$(call install,$(BENCH_PACKAGES))

# Installs those of the packages that are missing; without apt-get, or the right
# to use it, says which they are.
define install
missing=; for package in $(1); do \
	dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q ' installed$$' || missing="$$missing $$package"; \
done; \
test -z "$$missing" || { command -v apt-get >/dev/null \
	&& $(SUDO) apt-get update -qq \
	&& $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } \
|| { echo "Please install:$$missing" >&2; exit 1; }
endef

# Debian's own rustc may be too old; rustup, where Debian has it, is not.
RUST = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rust:
	@command -v cargo >/dev/null || { \
		$(call install,rustup) && rustup toolchain install stable --profile default; }
	@have=$$(cargo --version | cut -d' ' -f2); \
	printf '%s\n' '$(RUST)' "$$have" | sort -C -V || { \
		echo "Please install Rust $(RUST) or newer (https://rustup.rs); this is $$have" >&2; exit 1; }
