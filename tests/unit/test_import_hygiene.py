"""The screen starts at once because it loads no numerics; commands because they load no screen."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "numba", "hqq", "huggingface_hub", "pulp", "numpy"}

SCREEN_MODULES = [
    "app.tui",
    "app.screens.chat",
    "app.screens.wizard",
    "app.screens.compressing",
    "app.screens.parting",
    "app.screens.help",
    "app.screens.chats",
    "app.widgets.gauges",
    "app.engine_client",
    "app.job_client",
    "app.history",
    "app.settings",
]
COMMAND_MODULES = [
    "app.cli",
    "app.following",
    "app.jobs",
    "app.paths",
    "app.models",
    "compress.job",
]


def loaded_by(module: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after importing ``module``."""
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("module", SCREEN_MODULES)
def test_the_screen_loads_no_numerics(module: str):
    assert not loaded_by(module) & HEAVY


@pytest.mark.parametrize("module", COMMAND_MODULES)
def test_plain_commands_load_no_screen(module: str):
    assert not loaded_by(module) & (HEAVY | {"textual", "rich"})
