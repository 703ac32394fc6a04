"""Kernels for CUDA in Triton. Only modules in here import triton, and they are imported lazily."""
