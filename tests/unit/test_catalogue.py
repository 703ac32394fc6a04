"""The list of ready builds: empty as shipped, read whole when it is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.catalogue import ReadyBuild, ready_builds
from engine.errors import SourceError

SMALL = ReadyBuild("Small", "someone/small", "a" * 40, "original/one", 1.5, 9_000_000_000)
LARGE = ReadyBuild("Large", "someone/large", "b" * 40, "original/one", 2.5, 17_000_000_000)
OTHER = ReadyBuild("Other", "someone/other", "c" * 40, "original/two", 2.0, 12_000_000_000)


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_the_shipped_catalogue_can_be_read() -> None:
    assert all(build.revision for build in ready_builds())


def test_builds_come_smallest_first_and_by_their_original(tmp_path: Path) -> None:
    builds = [vars(build) for build in (LARGE, OTHER, SMALL)]
    path = write(tmp_path / "catalogue.json", {"builds": builds})
    assert ready_builds(path=path) == (SMALL, OTHER, LARGE)
    assert ready_builds("original/one", path) == (SMALL, LARGE)
    assert ready_builds("original/none", path) == ()


@pytest.mark.parametrize(
    "value", [[], {}, {"builds": [{}]}, {"builds": [vars(SMALL) | {"bytes": "many"}]}]
)
def test_a_damaged_catalogue_is_one_line(tmp_path: Path, value: Any) -> None:
    with pytest.raises(SourceError, match="damaged") as caught:
        ready_builds(path=write(tmp_path / "catalogue.json", value))
    assert "\n" not in str(caught.value)
