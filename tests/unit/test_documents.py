"""The documents say what the program says, and lead nowhere that is not there."""

import re
from pathlib import Path

import pytest

from docs import keys

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("getting-started", "wizard", "keys", "method", "troubleshooting", "journey")
DOCUMENTS = [ROOT / "docs" / f"{name}.md" for name in NAMES]
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")


def test_the_keys_are_those_of_the_program() -> None:
    assert keys.FILE.read_text() == keys.keys_text(), "it is out of date: python -m docs.keys"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
