"""`mc-chat chats`: what was said, to be listed, searched, exported, imported and deleted."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import paths
from app.arguments import Commands, Run, add_json, positive, print_json
from app.date_words import date_words
from app.render import safe_text
from engine.errors import UsageError

if TYPE_CHECKING:
    from app.chat_files import Format
    from app.history import ChatRecord, Found, History

LAST = "last"


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "chats", help="list, search, export, import and delete the chats of this machine"
    )
    parser.add_argument("--search", metavar="TEXT", help="only those with these words, best first")
    add_json(parser)
    parser.set_defaults(run=list_chats)
    # Without an action the chats are listed.
    actions = parser.add_subparsers(metavar="ACTION", title="actions", required=False)
    export = _action(actions, "export", export_one, "write a chat as Markdown or JSON")
    export.add_argument("chat", metavar="ID", help=f"its number in the list, or {LAST}")
    export.add_argument(
        "--format", choices=("md", "json"), default="md", help="json keeps all branches"
    )
    export.add_argument("--out", type=Path, metavar="FILE", help="instead of standard output")
    _action(actions, "import", import_one, "add a chat that was exported as JSON").add_argument(
        "file", type=Path, metavar="FILE"
    )
    for name, run, text in (
        ("rm", remove, "delete a chat; for a day, restore brings it back"),
        ("restore", restore, "bring back a chat that was deleted"),
    ):
        _action(actions, name, run, text).add_argument("chat", type=positive, metavar="ID")


def _action(actions: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
    # Not set again where `chats --json` has set it.
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON"
    )
    parser.set_defaults(run=run)
    return parser


def list_chats(options: argparse.Namespace) -> None:
    """All chats, the last used first; or those that a search finds."""
    history = _history()
    if options.search is None:
        chats = history.chats(limit=None)
        rows = [_facts(chat) for chat in chats]
        empty = "there is no chat yet: `mc-chat` begins one"
    else:
        found = history.search(options.search, limit=None)
        chats = [each.chat for each in found]
        rows = [_facts(each.chat) | _found(each) for each in found]
        empty = "no chat has these words"
    if options.json:
        print_json({"chats": rows})
    else:
        print(safe_text(_table(chats, rows)) if rows else empty)


def export_one(options: argparse.Namespace) -> None:
    """Print a chat, or write it to a file that is not there yet."""
    from app.chat_files import export_chat, to_text

    history = _history()
    chat = _chosen(history, options.chat)
    if options.out is None:
        format: Format = "json" if options.json else options.format
        sys.stdout.write(safe_text(to_text(history.read_whole(chat.id), format)))
        return
    export_chat(history, chat.id, options.out, options.format)
    if options.json:
        print_json({"id": chat.id, "file": str(options.out)})
    else:
        print(safe_text(f"chat {chat.id} is in {options.out}"))


def import_one(options: argparse.Namespace) -> None:
    """Add a chat from a file."""
    from app.chat_files import import_chat

    history = _history()
    chat = history.chat(import_chat(history, options.file))
    _tell(options, chat, f"chat {chat.id}: {chat.title}, {_messages(chat)}")


def remove(options: argparse.Namespace) -> None:
    """Delete a chat."""
    history = _history()
    chat = history.chat(options.chat)
    history.delete_chat(chat.id)
    back = f"for a day, `mc-chat chats restore {chat.id}` brings it back"
    _tell(options, chat, f"chat {chat.id} is deleted: {chat.title}; {back}")


def restore(options: argparse.Namespace) -> None:
    """Bring a deleted chat back."""
    history = _history()
    chat = history.chat(options.chat)
    history.restore_chat(chat.id)
    _tell(options, chat, f"chat {chat.id} is there again: {chat.title}")


def _history() -> "History":
    from app.history import History

    return History(paths.history_db())


def _chosen(history: "History", word: str) -> "ChatRecord":
    """A chat by number, or the last used. Raises UsageError."""
    if word == LAST:
        chats = history.chats(limit=1)
        if not chats:
            raise UsageError("there is no chat yet: `mc-chat` begins one")
        return chats[0]
    if not word.isdecimal():
        raise UsageError(f"{word!r} is no number of a chat; `mc-chat chats` lists them")
    return history.chat(int(word))


def _facts(chat: "ChatRecord") -> dict[str, Any]:
    facts = dataclasses.asdict(chat)
    return {key: value for key, value in facts.items() if key not in ("leaf", "deleted")}


def _found(found: "Found") -> dict[str, Any]:
    return {"message": found.message, "found": found.text}


def _tell(options: argparse.Namespace, chat: "ChatRecord", words: str) -> None:
    if options.json:
        print_json({"id": chat.id, "title": chat.title, "messages": chat.messages})
    else:
        print(safe_text(words))


def _table(chats: "list[ChatRecord]", rows: list[dict[str, Any]]) -> str:
    """One chat a line; what was found in a message stands below."""
    when = [date_words(chat.updated) for chat in chats]
    width = max(map(len, when))
    lines = []
    for chat, row, date in zip(chats, rows, when, strict=True):
        about = f"{chat.title}  ({chat.model}, {_messages(chat)})"
        lines.append(f"{chat.id:>5}  {date:<{width}}  {about}")
        if row.get("message"):
            lines.append(f"{'':>7}{row['found']}")
    return "\n".join(lines)


def _messages(chat: "ChatRecord") -> str:
    return f"{chat.messages:,} message{'s' if chat.messages != 1 else ''}"
