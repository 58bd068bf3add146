# Each target does its own set-up: a fresh clone needs nothing but Python, a compiler and cmake.
BOOTSTRAP = python3 scripts/bootstrap.py

.PHONY: help setup demo test bench soak lint clean

help:           ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup:          ## make or refresh .venv and build the interfaces
	@$(BOOTSTRAP) --dev

demo:           ## sort ten parcels from the moving belt, over real ROS 2; ARGS="--policy network --belt-speed 0.1" and more
	@$(BOOTSTRAP) internvla-a1 demo $(ARGS)

test:           ## every test; ARGS="tests/unit -k belt" for some
	@$(BOOTSTRAP) --dev python -m pytest $(ARGS)

lint:           ## style and types
	@$(BOOTSTRAP) --dev ruff check src tests scripts setup.py
	@$(BOOTSTRAP) --dev mypy

clean:          ## remove the environment and everything built
	rm -rf .venv build install log ros2_ws/build ros2_ws/install ros2_ws/log demo outputs
