# All commands of the project. Each installs what it needs and says what it does.

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: setup ## Run all tests: unit, store, HTTP, command line, OpenAPI, browser
	@# They wait for others more than they work.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} cargo test --locked

.PHONY: bench
bench: ## Measure what a request, a token and a signature cost, and print tables
	tests/setup wrk
	cargo build --locked --release --example ceiling
	cargo bench --locked

.PHONY: soak
soak: setup ## Try the promises for minutes, and print what was counted
	cargo test --locked --release --test soak

.PHONY: kubernetes
kubernetes: setup ## Try deploy/kubernetes on a Kubernetes API, which is built first (4 minutes, needs Go and kubectl)
	tests/setup etcd:etcd-server
	tests/build-kubernetes
	cargo test --locked --test mayfly -- --ignored kubernetes::

.PHONY: traefik
traefik: setup ## Try the example for Traefik, which is built first (6 minutes, needs Go)
	tests/build-traefik
	cargo test --locked --test mayfly -- --ignored --exact forward_auth::traefik_lets_live_tokens_through

.PHONY: fuzz
fuzz: ## Look for inputs that break parsers and logins, 10 minutes each at most (needs nightly Rust)
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	tests/fuzz/run

.PHONY: clients
clients: ## Generate clients from the OpenAPI document with four generators, and use them (needs Go, Node, Java)
	tests/clients/run

.PHONY: check
check: ## Check format, lints, documentation, licences and sources of the dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny --offline check bans licenses sources

.PHONY: openapi
openapi: ## Write openapi/openapi.yaml anew from the code
	cargo run --locked --quiet -- openapi > openapi/openapi.yaml.new
	mv openapi/openapi.yaml.new openapi/openapi.yaml

.PHONY: setup
setup: ## Install what the tests need, with apt and pip (part of `make test`)
	@tests/setup
