"""Every chat, kept in one SQLite file as it happens.

- `records`: what is kept of a chat and of a message;
- `schema`: the tables, version by version;
- `database`: the open file, its transactions, its errors in one line;
- `search`: the index over titles and texts;
- `store`: `History`, which everybody else uses.
"""

from app.history.database import HistoryError
from app.history.records import (
    ChatRecord,
    Figures,
    Found,
    MadeWith,
    MessageRecord,
    State,
    WholeChat,
    WholeMessage,
)
from app.history.search import has_index
from app.history.store import TITLE_LENGTH, History

__all__ = [
    "TITLE_LENGTH",
    "ChatRecord",
    "Figures",
    "Found",
    "History",
    "HistoryError",
    "MadeWith",
    "MessageRecord",
    "State",
    "WholeChat",
    "WholeMessage",
    "has_index",
]
