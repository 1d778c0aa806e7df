# Thin: each target is a line or two. What is longer is in scripts/.

TARGET := $(or $(CARGO_TARGET_DIR),target)

# What `make run` serves; for example: make run ARGS="--share photos=/srv/photos"
ARGS ?= $(if $(wildcard syncd.toml),,--share sample=$(TARGET)/sample)

# How long `make soak` lasts; RELEASE=1 takes the release build.
MINUTES ?= 10

.PHONY: lint test soak floors bench demo run proto-lint clients clean

lint:
	scripts/lint.sh

test:
	cargo test --workspace --locked --features failpoints

soak:
	SYNCD_SOAK_SECONDS=$$((60 * $(MINUTES))) cargo test --locked $(if $(RELEASE),--release) --test soak -- --ignored --nocapture

floors:
	cargo bench --locked --bench floors

bench:
	scripts/bench.sh

demo:
	scripts/demo.sh

run:
	mkdir -p $(TARGET)/sample && cp -r README.md docs config $(TARGET)/sample
	cargo run --release --locked --bin syncd -- $(ARGS)

proto-lint:
	scripts/proto-lint.sh

clients:
	scripts/clients.sh

clean:
	cargo clean
