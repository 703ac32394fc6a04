"""Runs a compressed checkpoint: format, kernels, model, pruning, generation, worker."""
