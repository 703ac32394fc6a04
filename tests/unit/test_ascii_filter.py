import string
import unicodedata
from pathlib import Path

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color

import app
from app.ascii_filter import TO_ASCII, AsciiFilter


def filtered(text: str) -> str:
    return "".join(segment.text for segment in AsciiFilter().apply([Segment(text)], Color(0, 0, 0)))


def test_every_replacement_is_one_cell_of_ascii_for_one_cell():
    for code, plain in TO_ASCII.items():
        assert plain in string.printable, chr(code)
        assert (len(plain), cell_len(chr(code))) == (1, 1), chr(code)


def test_all_that_the_program_draws_is_replaced():
    drawn = set()
    for path in Path(app.__file__).parent.rglob("*.py"):
        drawn |= {character for character in path.read_text() if not character.isascii()}
    assert {
        character: unicodedata.name(character)
        for character in drawn
        if not filtered(character).isascii()
    } == {}


def test_what_a_person_wrote_stays():
    assert filtered("Grüße 東京 ✓ ╭─╮") == "Grüße 東京 v +-+"
