# All commands of the project. Each installs the tools that it needs.

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: setup ## Run all tests: unit, store, HTTP, command line, OpenAPI, browser
	@# Twice as many tests at once as cores: most of them wait for other processes.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} cargo test --locked --workspace --all-features

.PHONY: bench
bench: ## Measure requests, tokens and signatures, and print tables
	tests/setup wrk
	cargo build --locked --release --example ceiling
	cargo bench --locked
	clients/python/benchmarks/run target/release/mayfly

.PHONY: soak
soak: setup ## Test revocation, failover and load for about an hour, and print tables
	cargo test --locked --release --test soak
	cd clients/python && MAYFLY_REVOCATIONS=10000 MAYFLY_BINARY=$(CURDIR)/target/release/mayfly \
	  $(CURDIR)/tests/.tools/bin/python -m pytest --quiet -s tests/test_replicas.py

.PHONY: kubernetes
kubernetes: setup ## Test deploy/kubernetes on a Kubernetes API, which is built first (4 minutes, needs Go and kubectl)
	tests/setup etcd:etcd-server
	tests/build-kubernetes
	cargo test --locked --test mayfly -- --ignored kubernetes::

.PHONY: traefik
traefik: setup ## Test the example for Traefik, which is built first (6 minutes, needs Go)
	tests/build-traefik
	cargo test --locked --test mayfly -- --ignored --exact forward_auth::traefik_lets_live_tokens_through

.PHONY: fuzz
fuzz: ## Fuzz parsers and logins, 10 minutes each at most (needs nightly Rust)
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	tests/fuzz/run

.PHONY: clients
clients: ## Generate clients from the OpenAPI document with four generators, and test them (needs Go, Node, Java)
	tests/clients/run

.PHONY: check
check: setup ## Check format, lints, types of the page, documentation, licences and sources of the dependencies
	cargo fmt --check
	cargo clippy --locked --workspace --all-features --all-targets -- -D warnings
	tests/.tools/node_modules/.bin/tsc --project src/http/page
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --all-features --no-deps --document-private-items
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny --offline check bans licenses sources

.PHONY: openapi
openapi: ## Write openapi/openapi.yaml from the code
	cargo run --locked --quiet -- openapi > openapi/openapi.yaml.new
	mv openapi/openapi.yaml.new openapi/openapi.yaml

.PHONY: settings
settings: ## Write the references of all settings from the code
	cargo build --locked --quiet
	target/debug/mayfly settings > deploy/settings.md
	target/debug/mayfly settings --format env > deploy/systemd/mayfly.env

.PHONY: page
page: setup ## Take the picture of the page for the README, and print how quickly the page shows
	cargo test --locked --test mayfly -- --ignored --exact --nocapture page::picture

.PHONY: deb
deb: setup ## Build the Debian package, and test it with dpkg (as root)
	cargo deb --version >/dev/null 2>&1 || cargo install --locked cargo-deb
	cargo auditable --version >/dev/null 2>&1 || cargo install --locked cargo-auditable
	cargo auditable build --locked --release
	mkdir -p target/package
	for shell in bash:mayfly.bash fish:mayfly.fish zsh:_mayfly; do \
	  target/release/mayfly completions $${shell%:*} > target/package/$${shell#*:} || exit 1; \
	done
	target/release/mayfly manual target/package/man
	rm -f target/debian/*.deb
	cargo deb --no-build
	cargo test --locked --test mayfly -- --ignored --exact packaging::the_debian_package_installs_a_service_that_starts

.PHONY: setup
setup: ## Install the tools of the tests, with apt and pip (part of `make test`)
	@tests/setup
