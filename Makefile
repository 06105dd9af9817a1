# larder: build, run, test, measure, deploy. `make help` lists the targets.

CARGO ?= cargo
DATA ?= ./larder-data
LISTEN ?= 127.0.0.1:8080

.PHONY: docs figures help run build test need fmt-check clippy test-rust test-release test-contract trial torture fuzz bench bench-peers \
        size budget budget-write deploy rollback test-board test-arm test-32 clean-data

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-16s %s\n", $$1, $$2 }'

run: build ## build the release and serve ./larder-data on 127.0.0.1:8080
	./target/release/larder serve --listen $(LISTEN) --data $(DATA)

build: ## build the release binary
	$(CARGO) build --release --locked

TESTS = need fmt-check clippy test-rust test-release test-contract budget

test: ## install what is missing, then run every test, and go on after a failure
	@failed=""; for part in $(TESTS); do $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; done; \
	    if [ -n "$$failed" ]; then echo "FAILED:$$failed" >&2; exit 1; fi

need: ## install the tools that the tests use, where that is allowed
	@sh tests/tools/need.sh

fmt-check:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

test-rust: ## unit, property and outside tests on the debug build
	$(CARGO) test --locked --no-fail-fast

test-release: build ## what only the release binary can show: memory, torture, size
	BINARY_UNDER_TEST='$(CURDIR)/target/release/larder' $(CARGO) test --locked --test release --no-fail-fast -- --test-threads 1

test-contract: ## the served OpenAPI document against the running server, and clients generated from it
	@sh tests/tools/contract.sh
	@sh tests/tools/clients.sh

budget: build ## instructions, allocations, size and crates against benches/budget.toml
	@CARGO='$(CARGO)' benches/budget.py

budget-write: build ## renew benches/budget.toml with what is measured now
	@CARGO='$(CARGO)' benches/budget.py --write

fuzz: ## coverage-guided fuzzing of every parser in turn, for HOURS (default 1) in all
	@CARGO='$(CARGO)' HOURS='$(HOURS)' sh tests/fuzz/run.sh

trial: ## everything that a field trial would try, on both engines, as one table; 10 to 15 minutes, fails on any breach
	@CARGO='$(CARGO)' python3 tests/tools/trial.py

torture: ## kill -9, power cuts and failures of the card by the thousand with a ledger of what was acknowledged, and many sealed journals
	TORTURE_ROUNDS=1000 $(CARGO) test --locked --profile fast --test torture -- --nocapture
	POWER_CUTS=2000 POWER_SEED=1000 $(CARGO) test --locked --profile fast --test campaign -- --nocapture power_cut
	FAULT_RUNS=all $(CARGO) test --locked --profile fast --test campaign -- --nocapture no_failure
	FRESH_ROTATIONS=50 $(CARGO) test --locked --profile fast --test release -- --nocapture nothing_stale

deploy: ## put larder on a board: HOST=user@board [PORT=22] [ENGINE=tiny_http|epoll] [TUNE=1] [WAIT=120] [BIN=path]
	@HOST='$(HOST)' PORT='$(PORT)' ENGINE='$(ENGINE)' TUNE='$(TUNE)' WAIT='$(WAIT)' BIN='$(BIN)' systemd/deploy.sh deploy

rollback: ## put back what ran on the board before the last deploy: HOST=user@board [PORT=22] [WAIT=120]
	@HOST='$(HOST)' PORT='$(PORT)' WAIT='$(WAIT)' systemd/deploy.sh rollback

test-board: ## deploy to a container that is like a board, and look (root, mmdebstrap, systemd-container; minutes)
	@BIN='$(BIN)' tests/board/run.sh

test-arm: ## boot a 512 MB ARM board in QEMU and run larder there: a kill, a power cut (qemu-system-arm; minutes)
	@BIN='$(BIN)' tests/board/arm.sh

test-32: ## all tests as a 32-bit program (i686, on this machine; a second build of everything); TEST_ARGS="--lib store"
	@CARGO='$(CARGO)' TEST_ARGS='$(TEST_ARGS)' tests/tools/test-32.sh

size: build ## the size of the release binary
	@stat -c 'larder: %s bytes' target/release/larder

figures: build ## size, start, memory: the figures of one larder by itself (python3, wrk)
	python3 benches/figures.py

docs: build ## the man page and the shell completions, in target/docs
	mkdir -p target/docs
	./target/release/larder man > target/docs/larder.1
	for shell in bash zsh fish; do ./target/release/larder completions $$shell > target/docs/larder.$$shell; done

bench: ## criterion benches of the parts
	$(CARGO) bench --locked

clean-data: ## remove the local data folder of `make run`
	rm -rf -- $(DATA)

bench-peers: ## larder beside other servers, on this machine (ROUNDS, SECONDS_EACH, ONLY, WORKLOADS: see benches/peers/run.py)
	sh benches/peers/need.sh
	python3 benches/peers/run.py
