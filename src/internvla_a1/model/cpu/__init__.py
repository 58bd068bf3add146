"""Kernels for CPUs: whole stacks of layers in one call. Nothing here changes what is computed.

For large models with AMX or AVX-512 (BF16, VNNI), on weights as they lie in memory (`kernels`); for small float32 models with AVX2 or
AVX-512, with the gradient of guided sampling (`small`). The C++ files are compiled by the machine that runs them, once (`library`);
without a compiler or without these instructions torch does the work.
"""
