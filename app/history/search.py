"""Search over titles and texts: SQLite's full-text index where there is one, else LIKE.

A row of the index is a message, numbered by its id, or a chat's title, numbered by minus the
chat's id. Triggers keep it. A reply that is being written is not in it, for it changes four times
a second: those few are looked through.
"""

import re
import sqlite3
import unicodedata
from contextlib import closing
from dataclasses import dataclass

from app.history.database import Database
from app.render import safe_text

LONGEST_QUERY = 200
MOST_TERMS = 12
SNIPPET_BEFORE = 30
SNIPPET_LENGTH = 160
"""Characters of a message that are shown: some before what was found, and all in all."""

_FOLDED_CHARACTERS = 100_000
"""So much of a message is looked at for a snippet; the search itself sees all."""

_FIRST = -1e18
"""Where a title is among the results, before all messages."""

_UNSPACED = re.compile(
    "(["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff\uff66-\uff9d"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7a3"  # Hangul: spaced, but what one looks for is often the middle of a word
    "])"
)
"""Characters of scripts that leave no spaces between words: each is a word of the index."""

_INDEX = (
    "CREATE VIRTUAL TABLE search"
    " USING fts5(text, tokenize = 'unicode61 remove_diacritics 2', prefix = '1 2')",
    "INSERT INTO search (rowid, text) SELECT -id, spaced(title) FROM chats",
    "INSERT INTO search (rowid, text)"
    " SELECT id, spaced(content) FROM messages WHERE state <> 'writing'",
)
_TRIGGERS = {
    "search_new_title": """AFTER INSERT ON chats BEGIN
        INSERT INTO search (rowid, text) VALUES (-new.id, spaced(new.title));
    END""",
    "search_changed_title": """AFTER UPDATE OF title ON chats BEGIN
        UPDATE search SET text = spaced(new.title) WHERE rowid = -new.id;
    END""",
    "search_gone_title": """AFTER DELETE ON chats BEGIN
        DELETE FROM search WHERE rowid = -old.id;
    END""",
    "search_new_text": """AFTER INSERT ON messages WHEN new.state <> 'writing' BEGIN
        INSERT INTO search (rowid, text) VALUES (new.id, spaced(new.content));
    END""",
    "search_changed_text": """AFTER UPDATE OF content, state ON messages
    WHEN old.state <> 'writing' OR new.state <> 'writing' BEGIN
        DELETE FROM search WHERE rowid = old.id;
        INSERT INTO search (rowid, text)
            SELECT new.id, spaced(new.content) WHERE new.state <> 'writing';
    END""",
    "search_gone_text": """AFTER DELETE ON messages WHEN old.state <> 'writing' BEGIN
        DELETE FROM search WHERE rowid = old.id;
    END""",
}


@dataclass(frozen=True)
class Hit:
    """The best of a chat; ``message`` is None where that is its title. ``text`` is whole."""

    chat: int
    message: int | None
    text: str


class Query:
    """What somebody typed: words that must all be in one text, each at the beginning of a word.

    Any input is fine. What the index has no words for (``->``, an emoji) must be in the text as
    it is.
    """

    def __init__(self, text: str) -> None:
        terms = safe_text(text)[:LONGEST_QUERY].split()[:MOST_TERMS]
        self.terms = tuple(terms)
        self.words = tuple(term for term in terms if any(map(str.isalnum, term)))
        self.signs = tuple(term for term in terms if term not in self.words)

    def match(self) -> str:
        """For the index: every word in quotes, so that nothing in it is an operator."""
        quoted = (spaced(word).replace('"', '""') for word in self.words)
        return " AND ".join(f'"{word}" *' for word in quoted)

    def marks(self, text: str) -> tuple[tuple[int, int], ...]:
        """Where in ``text`` the terms are: from and to, in order, none within another."""
        folded = text.translate(_FOLD)
        found = [match.span() for term in self.terms for match in _pattern(term).finditer(folded)]
        marks: list[tuple[int, int]] = []
        for start, end in sorted(found, key=lambda span: (span[0], -span[1])):
            if not marks or start >= marks[-1][1]:
                marks.append((start, end))
        return tuple(marks)


def has_index() -> bool:
    """Whether this Python's SQLite has FTS5."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
        except sqlite3.OperationalError:
            return False
    return True


class SearchIndex:
    """The index of one open history."""

    def __init__(self, database: Database, indexed: bool) -> None:
        """Make the index where there is none yet; ``indexed``: this SQLite has FTS5.

        Without FTS5 the triggers of another SQLite must go, or nothing could be written; the index
        is made anew by whoever has it next.
        """
        self._database = database
        self._indexed = indexed
        database.connection.create_function("spaced", 1, spaced, deterministic=True)
        # Some systems' SQLite lets triggers call no function of the program's.
        database.write("PRAGMA trusted_schema = ON")
        missing = _TRIGGERS.keys() - self._triggers()
        if indexed and missing:
            with database.transaction():
                self._make()
        elif not indexed:
            for name in self._triggers():
                database.write(f"DROP TRIGGER {name}")

    def find(self, query: Query, limit: int) -> list[Hit]:
        """The best hit of each chat that is not deleted, titles first, then by relevance; for
        single letters the newest first."""
        if not query.terms:
            return []
        likes, patterns = _likes(query.signs)
        if self._indexed and query.words:
            writing, all_patterns = _likes(query.terms)
            # A letter is in nearly every text: weighing them all takes long and tells nothing.
            order = "rank" if any(len(word) > 1 for word in query.words) else "-search.rowid"
            found = f"""
                SELECT iif(search.rowid < 0, -search.rowid, messages.chat) AS chat,
                    search.rowid AS id, iif(search.rowid < 0, {_FIRST}, {order}) AS place
                FROM search LEFT JOIN messages ON messages.id = search.rowid
                WHERE search MATCH ? {likes.format("search.text")}
                UNION ALL
                SELECT chat, id, 0 FROM messages
                WHERE state = 'writing' {writing.format("content")}"""
            values = (query.match(), *patterns, *all_patterns)
        else:
            likes, patterns = _likes(query.terms)
            found = f"""
                SELECT id AS chat, -id AS id, {_FIRST} AS place FROM chats
                WHERE true {likes.format("title")}
                UNION ALL
                SELECT chat, id, 0 FROM messages WHERE true {likes.format("content")}"""
            values = (*patterns, *patterns)
        rows = self._database.rows(
            f"""WITH best AS (SELECT chat, id, min(place) AS place FROM ({found}) GROUP BY chat)
            SELECT chats.id, messages.id, coalesce(messages.content, chats.title)
            FROM best JOIN chats ON chats.id = best.chat
            LEFT JOIN messages ON messages.id = best.id
            WHERE chats.deleted IS NULL
            ORDER BY best.place, chats.updated DESC LIMIT ?""",
            (*values, limit),
        )
        return [Hit(*row) for row in rows]

    def _triggers(self) -> set[str]:
        names = self._database.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        return {name for (name,) in names} & _TRIGGERS.keys()

    def _make(self) -> None:
        if not _TRIGGERS.keys() - self._triggers():
            return  # another mc-chat was faster
        for name in self._triggers():
            self._database.write(f"DROP TRIGGER {name}")
        self._database.write("DROP TABLE IF EXISTS search")
        for statement in _INDEX:
            self._database.write(statement)
        for name, body in _TRIGGERS.items():
            self._database.write(f"CREATE TRIGGER {name} {body}")


def snippet(text: str, query: Query) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A piece of a message in one line, around what was found first, and the marks in it."""
    text = " ".join(text[:_FOLDED_CHARACTERS].split())
    marks = query.marks(text)
    first = marks[0][0] if marks else 0
    start = max(0, first - SNIPPET_BEFORE) if first > SNIPPET_BEFORE + 1 else 0
    before = "…" if start else ""
    piece = before + text[start : start + SNIPPET_LENGTH]
    shift = len(before) - start
    inside = [(a + shift, b + shift) for a, b in marks if b + shift <= len(piece)]
    return piece, tuple(inside)


def spaced(text: str) -> str:
    """``text`` for the index: what is written without spaces gets some. Never changes for a given
    text, or the index has to be made anew."""
    return _UNSPACED.sub(r" \1 ", text)


def _likes(terms: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Conditions on a column, to be named with `format`, and the values for them."""
    escaped = (re.sub(r"([\\%_])", r"\\\1", term) for term in terms)
    patterns = tuple(f"%{term}%" for term in escaped)
    return " ".join(["AND {0} LIKE ? ESCAPE '\\'"] * len(patterns)), patterns


def _pattern(term: str) -> re.Pattern[str]:
    """Where a term is shown as found: a word at its beginning, as the index finds it."""
    folded = term.translate(_FOLD)
    begins = folded[0].isalnum() and not _UNSPACED.match(folded)
    return re.compile((r"(?<!\w)" if begins else "") + re.escape(folded))


class _Fold(dict[int, str]):
    """Each character without its accents, in lower case, still one character."""

    def __missing__(self, code: int) -> str:
        base = unicodedata.normalize("NFKD", chr(code))[0].lower()
        self[code] = base if len(base) == 1 else chr(code)
        return self[code]


_FOLD = _Fold()
