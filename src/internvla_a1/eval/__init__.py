"""Measurements: closed loop, open loop, faults, speed."""
