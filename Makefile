# Each target does its own set-up: a fresh clone needs nothing but Python, a compiler and cmake.
BOOTSTRAP = python3 scripts/bootstrap.py

.PHONY: help setup demo test bench soak train-tiny colcon lint clean

help:           ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup:          ## make or refresh .venv and build the interfaces
	@$(BOOTSTRAP) --dev

demo:           ## sort ten parcels from the moving belt, over real ROS 2; ARGS="--policy expert --belt-speed 0.1" and more
	@$(BOOTSTRAP) internvla-a1 demo $(ARGS)

test:           ## every test; ARGS="tests/unit -k belt" for some
	@$(BOOTSTRAP) --dev python -m pytest $(ARGS)

bench:          ## speed of the model and of the chain, and the figures of the fault table; long
	@$(BOOTSTRAP) --dev internvla-a1 bench model --config tiny --out outputs/bench_model
	@$(BOOTSTRAP) --dev internvla-a1 bench latency
	@$(BOOTSTRAP) --dev internvla-a1 bench safety
	@$(BOOTSTRAP) --dev internvla-a1 bench collision

soak:           ## half an hour of the demo with a random fault every 5 to 15 s; ARGS="--minutes 5" for less
	@$(BOOTSTRAP) --dev internvla-a1 bench soak $(ARGS)

train-tiny:     ## the demo's policy from nothing, resumable; hours
	@$(BOOTSTRAP) internvla-a1 train --pipeline --config config/train/pipeline_tiny.yaml

colcon:         ## build both packages as on a robot, from here and from ros2_ws
	@$(BOOTSTRAP) --dev colcon build --base-paths . ros2_ws/src --cmake-args -DCMAKE_PROJECT_INCLUDE=$(CURDIR)/scripts/strip_missing_includes.cmake
	@cd ros2_ws && python3 ../scripts/bootstrap.py --dev colcon build --cmake-args -DCMAKE_PROJECT_INCLUDE=$(CURDIR)/scripts/strip_missing_includes.cmake

lint:           ## style and types
	@$(BOOTSTRAP) --dev ruff check src tests scripts setup.py
	@$(BOOTSTRAP) --dev mypy

clean:          ## remove the environment and everything built
	rm -rf .venv build install log ros2_ws/build ros2_ws/install ros2_ws/log demo outputs
