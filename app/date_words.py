"""When something was, as people say it: today 14:02, yesterday, 3 Nov, 3 Nov 2025."""

import time
from datetime import datetime, timedelta

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date_words(moment: float, now: float | None = None) -> str:
    """``moment`` and ``now`` in seconds since 1970; in this machine's time zone."""
    then = datetime.fromtimestamp(moment)
    today = datetime.fromtimestamp(time.time() if now is None else now).date()
    if then.date() == today:
        return f"today {then:%H:%M}"
    if then.date() == today - timedelta(days=1):
        return "yesterday"
    date = f"{then.day} {_MONTHS[then.month - 1]}"
    return date if then.year == today.year else f"{date} {then.year}"
