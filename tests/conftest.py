import os

# Tests run the kernels for GPUs in the interpreter of Triton, which asks wherever one is defined.
# What compiles them for real does so in a process of its own (tests/triton_compile.py).
os.environ["TRITON_INTERPRET"] = "1"

import engine  # noqa: F401 - it tells torch's threads how to wait, before torch is imported
