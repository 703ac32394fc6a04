"""The documents say what the program says, and lead nowhere that is not there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from docs import journey, keys

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("README.md", "assets/README.md", "docs/*.md", "benchmarks/results/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(`{3,}).*?^\1", re.DOTALL | re.MULTILINE)


def test_the_keys_are_those_of_the_program() -> None:
    assert keys.FILE.read_text() == keys.keys_text(), "it is out of date: python -m docs.keys"


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """What a `#` can lead to, as GitHub names it."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    plain = [LINK.sub(r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_links_to_is_there(document: Path) -> None:
    """Files, pictures, and headings."""
    for _, target in LINK.findall(prose(document)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md", "docs/journey.md"])
def test_everywhere_the_same_lines_install_it(name: str) -> None:
    text = (ROOT / name).read_text()
    for line in journey.INSTALL:
        assert line in text


HOLE = "\0"
PLACEHOLDER = re.compile(r"\b(?:ADVICE|DEVICE|DIR|FILE|NAMES?|N|REASON)\b")


@cache
def strings() -> str:
    """Every text of the program's sources, a line each, with holes for what is put in."""
    found = []
    for file in (
        each for room in ("app", "compress", "engine") for each in (ROOT / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(map(piece, node.values)))
            elif isinstance(node, ast.Constant):
                found.append(piece(node))
    return "\n".join(found)


def piece(node: ast.expr) -> str:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else HOLE


def is_said(quote: str) -> bool:
    literal = [re.escape(each) for each in PLACEHOLDER.split(quote) if each.strip()]
    return re.search(".*?".join(literal), strings()) is not None


def test_every_message_that_is_explained_exists() -> None:
    quotes = re.findall(r"^> (.+)$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quotes) > 20
    for quote in quotes:
        assert is_said(quote), quote
    assert not is_said("the moon is NAME; wait for N days")
