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

.PHONY: login-proxy
login-proxy: setup ## Test logins by oauth2-proxy, which is built first (minutes, needs Go)
	tests/build-oauth2-proxy
	cargo test --locked --test mayfly -- --ignored proxy_login::oauth2_proxy

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
page: setup ## Take the picture of the page for the README, and print how quickly it shows (on a quiet machine)
	cargo test --locked --test mayfly -- --ignored --exact --nocapture page::picture

.PHONY: deb
deb: setup sbom ## Build the Debian package, and test it with dpkg (as root)
	cargo deb --version >/dev/null 2>&1 || cargo install --locked cargo-deb@3.8.0
	cargo auditable --version >/dev/null 2>&1 || cargo install --locked cargo-auditable@0.7.7
	cargo auditable build --locked --release
	rm -rf target/package target/debian
	mkdir -p target/package/completions
	for shell in bash:mayfly.bash fish:mayfly.fish zsh:_mayfly powershell:mayfly.ps1; do \
	  target/release/mayfly completions $${shell%:*} > target/package/completions/$${shell#*:} || exit 1; \
	done
	target/release/mayfly manual target/package/man
	cargo deb --locked --no-build
	cargo test --locked --test mayfly -- --ignored packaging::

.PHONY: sbom
sbom: ## Write the list of all dependencies (CycloneDX) to target/mayfly.cdx.json
	cargo cyclonedx --version >/dev/null 2>&1 || cargo install --locked cargo-cyclonedx@0.5.9
	@# It writes a file beside the manifest of each package.
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) cargo cyclonedx --quiet --format json --spec-version 1.5
	mkdir -p target
	mv mayfly.cdx.json target/
	rm clients/rust/mayfly-verifier.cdx.json

# The name of the tarball, and of the directory in it.
release_name = mayfly-$(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)-$(shell rustc --print host-tuple)

.PHONY: release
release: deb ## Make the artefacts of a release in target/artefacts: tarball, package, SBOM, checksums
	rm -rf target/artefacts
	mkdir -p target/artefacts/$(release_name)
	cp -r target/release/mayfly target/package/man target/package/completions deploy/systemd deploy/settings.md \
	  README.md CHANGELOG.md LICENSE target/artefacts/$(release_name)
	strip --strip-debug target/artefacts/$(release_name)/mayfly
	tar --create --gzip --directory target/artefacts --file target/artefacts/$(release_name).tar.gz --remove-files \
	  --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$$(git log -1 --format=%ct) $(release_name)
	cp target/debian/*.deb target/mayfly.cdx.json target/artefacts
	cd target/artefacts && sha256sum * > SHA256SUMS && cat SHA256SUMS
	@echo 'Sign the checksums, which cover the rest, and publish the signature beside them. One of:'
	@echo '  gpg --armor --detach-sign target/artefacts/SHA256SUMS      # check: gpg --verify SHA256SUMS.asc SHA256SUMS'
	@echo '  minisign -Sm target/artefacts/SHA256SUMS                   # check: minisign -Vm SHA256SUMS -p minisign.pub'
	@echo '  cosign sign-blob --bundle target/artefacts/SHA256SUMS.sigstore.json target/artefacts/SHA256SUMS'
	@echo 'Then, as everybody who downloads them: sha256sum --check SHA256SUMS'

.PHONY: setup
setup: ## Install the tools of the tests, with apt and pip (part of `make test`)
	@tests/setup
