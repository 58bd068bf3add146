"""What makes inference fast on a CUDA device: fused kernels around the matrix products, and one graph for a whole prediction."""
