"""Kernels for CPUs with AMX: whole stacks of layers in one call, on weights as they lie in memory. Nothing here changes what is computed.

The C++ files are compiled by the machine that runs them, once (`library`); without a compiler or without AMX torch does the work.
"""
