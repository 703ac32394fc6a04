import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from app.date_words import date_words


@pytest.fixture(autouse=True, params=["UTC", "America/New_York", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (datetime(2026, 1, 2, 0, 0), "today 00:00"),
        (datetime(2026, 1, 2, 9, 5), "today 09:05"),
        (datetime(2026, 1, 1, 23, 59), "yesterday"),
        (datetime(2026, 1, 1, 0, 0), "yesterday"),
        (datetime(2025, 12, 31, 23, 59), "31 Dec 2025"),
        (datetime(2026, 11, 3, 12, 0), "3 Nov"),
    ],
)
def test_dates_as_people_say_them(moment: datetime, words: str):
    now = datetime(2026, 1, 2, 9, 30).timestamp()
    assert date_words(moment.timestamp(), now) == words
