"""Demonstrations on disk: LeRobot v2.1 and v3.0 folders in and out, samples with time windows, statistics, mixtures."""
