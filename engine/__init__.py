"""Runs a compressed checkpoint: format, kernels, model, pruning, generation, worker."""

import os

# torch's threads otherwise spin while they wait for each other, and starve on a machine that is
# busy with something else: measured on two busy cores, 25 tokens/s became 400. OpenMP reads this
# when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
