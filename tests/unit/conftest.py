import sys

import pytest


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers, alone or in company."""
    # Only where torch is loaded anyway: some tests see to it that it is not.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
