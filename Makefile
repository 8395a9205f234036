# The commands of this project. `make serve` and `make test` are all there is to
# know; both install what they need.

# Outside the checkout: a fresh clone finds RocksDB built.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/registry-target

# Where `make serve` keeps the registry, and more flags for it.
DIR ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/registry
FLAGS ?=
# Flags for the benchmark; `make bench BENCH=--help` lists them.
BENCH ?=
# How long `make fuzz` stays with each target.
FUZZ_SECONDS ?= 60

# RocksDB, AWS-LC, zlib-ng and others are compiled; bindgen reads RocksDB's header
# with libclang.
BUILD_PACKAGES = cmake g++ libclang-dev make
# The clients that the tests use, and what the tests build images from.
TEST_PACKAGES = $(BUILD_PACKAGES) 7zip busybox-static bzip2 ca-certificates chromium chromium-driver containerd cpio curl docker.io \
	docker-registry e2fsprogs fuse3 golang-go gpg libarchive-tools libcap2-bin lsof mmdebstrap mount nginx-light patch pax \
	pigz podman procps python3 python3-venv ripgrep rsync skopeo tabix umoci util-linux xz-utils zstd $(if $(shell command -v npm),,nodejs npm)
# NodeSource's nodejs, which has npm in it, and Debian's npm exclude each other.
BENCH_PACKAGES = $(BUILD_PACKAGES) ca-certificates docker-registry libfuse2 mmdebstrap python3-venv ripgrep \
	$(if $(shell command -v npm),,nodejs npm)

ROOT := $(filter 0,$(shell id -u))
SUDO := $(if $(ROOT),,sudo)

# libFuzzer's instrumentation by a stable compiler: SanitizerCoverage's flags
# (https://clang.llvm.org/docs/SanitizerCoverage.html), for the compiler's back end.
FUZZ_FLAGS = -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 \
	inline-8bit-counters pc-table trace-compares) --cfg fuzzing -Cdebug-assertions
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: serve test bench fuzz deps build-deps test-deps bench-deps rust

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
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --release --locked --manifest-path fuzz/Cargo.toml \
		--lib --bins --examples --test seeds -- -D warnings
	cargo test --release --locked --manifest-path fuzz/Cargo.toml

bench: bench-deps
	cargo bench --locked --bench registry -- $(BENCH)

# What it finds lies in the target folder; the inputs it gathers stay there for
# the next run. Instrumented in a folder of its own, so that nothing else is built anew.
fuzz: export FUZZ = $(CARGO_TARGET_DIR)/fuzz
fuzz: build-deps
	cargo run --release --locked --manifest-path fuzz/Cargo.toml --example seeds -- "$$FUZZ/corpus"
	RUSTFLAGS='$(FUZZ_FLAGS)' cargo build --release --locked --manifest-path fuzz/Cargo.toml \
		--bins --target $(FUZZ_HOST) --target-dir "$$FUZZ"
	set -e; for corpus in "$$FUZZ"/corpus/*; do \
		target=$${corpus##*/}; \
		echo "== $$target"; \
		"$$FUZZ/$(FUZZ_HOST)/release/fuzz-$$target" -max_total_time=$(FUZZ_SECONDS) \
			-rss_limit_mb=1024 -max_len=16384 -timeout=20 -print_final_stats=1 \
			-artifact_prefix="$$FUZZ/found-$$target-" "$$corpus"; \
	done

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
