"""The vocabulary of the stack: observations, chunks, robots, faults, errors, clocks. No torch, no ROS."""
