"""Write the reference of the keys from the program's own tables.

    python -m docs.keys

writes docs/keys.md. Run it again when a key, a command or a screen changes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from textual.binding import Binding
from textual.dom import DOMNode

from app.command_table import COMMANDS
from app.key_words import keys_words
from app.screens.answering import AnsweringScreen
from app.screens.chats import ChatsScreen
from app.screens.compare import CompareScreen
from app.screens.compressing import CompressScreen
from app.screens.expert_map import ExpertMapScreen
from app.screens.help import ALL_COMMANDS, FIXED
from app.screens.job_screen import JobScreen
from app.screens.models import ModelsScreen
from app.screens.parting import PartingScreen
from app.screens.publishing import PublishScreen
from app.screens.report import ReportScreen
from app.screens.wizard import WizardScreen
from app.widgets.chat_list import ChatList
from app.widgets.expert_map import ExpertMap
from app.widgets.model_list import ModelList
from app.widgets.plan_table import PlanTable

FILE = Path(__file__).parent / "keys.md"

SCREENS: tuple[tuple[str, str, tuple[type[DOMNode], ...]], ...] = (
    (
        "Set up",
        "The wizard: what it asks is in [the wizard](wizard.md).",
        (PlanTable, WizardScreen),
    ),
    (
        "A compression, a download, an upload",
        "Only a compression can be begun anew; only what failed can be tried again.",
        (CompressScreen, JobScreen),
    ),
    ("Leaving one that runs", "Esc on the screen above asks this.", (PartingScreen,)),
    ("The report", "After a compression, and R on the models.", (ReportScreen,)),
    ("Models", "Letters are for the highlighted one.", (ModelList, ModelsScreen)),
    (
        "The map of the experts",
        "Wide and live; beside the chat it is shown without keys of its own.",
        (ExpertMapScreen, ExpertMap),
    ),
    (
        "Chats",
        "One types to search and chooses with the arrows; Tab leads to the list, where letters "
        "are keys.",
        (ChatsScreen, ChatList),
    ),
    ("A/B", "One prompt, two replies.", (CompareScreen,)),
    ("How the chat is answered", "System prompt, preset, sampling.", (AnsweringScreen,)),
    ("Publishing", "Where to, and who may see it.", (PublishScreen,)),
)
"""A heading, a line, and the screens and widgets whose keys stand below it."""

SELF_EVIDENT = frozenset({"Up", "Down", "Page up", "Page down"})
"""What scrolls says no more than its key does."""

OPENING = """\
# Keys

Every key of the screen: written by `python -m docs.keys` from the program's own tables. In the
program `?` shows those of the chat as they are with your settings, the footer those that work
where you are, and Ctrl+P finds a command by its words.

## Keys that the settings can change

`mc-chat settings set keys.NAME KEY` gives an action another key, `f9` or `ctrl+t`; several are
divided by commas ([settings](settings.md)). Each is also a command: type a slash and its name, with
what may follow it.
"""


def keys_text() -> str:
    """The whole page."""
    return "\n".join([OPENING, *_changeable(), *_fixed(), *_screens()])


# --- the chat -------------------------------------------------------------------------------------


def _changeable() -> Iterator[str]:
    rows = [
        (
            _keys(command.keys({})),
            command.key,
            _typed(command.name, command.argument),
            command.words,
        )
        for command in COMMANDS
        if command.key
    ]
    yield from _table(("key", "setting", "command", "what it does"), rows)
    yield "## Commands without a key\n"
    without = [
        (_typed(command.name, command.argument), command.words)
        for command in COMMANDS
        if not command.key
    ]
    yield from _table(("command", "what it does"), without)


def _fixed() -> Iterator[str]:
    subjects = {subject: list(lines) for subject, lines in FIXED}
    next(iter(subjects.values())).append(ALL_COMMANDS)
    for subject, lines in subjects.items():
        yield f"## {subject}\n"
        yield from _table(("key", "what it does"), [(_bold(key), what) for key, what in lines])


def _typed(name: str, argument: str) -> str:
    return f"`/{name} {argument}`".replace(" `", "`")


# --- the other screens ----------------------------------------------------------------------------


def _screens() -> Iterator[str]:
    for heading, words, owners in SCREENS:
        yield f"## {heading}\n"
        yield f"{words}\n"
        rows = [(_keys(keys), what) for what, keys in _bindings(owners).items()]
        yield from _table(("key", "what it does"), rows)


def _bindings(owners: Iterable[type[DOMNode]]) -> dict[str, str]:
    """What these classes' own keys do, and the keys, divided by commas."""
    found: dict[str, str] = {}
    for owner in owners:
        for binding in owner.__dict__["BINDINGS"]:
            made = binding if isinstance(binding, Binding) else Binding(*binding)
            what = made.description
            if what not in SELF_EVIDENT:
                found[what] = f"{found[what]},{made.key}" if what in found else made.key
    return found


# --- Markdown -------------------------------------------------------------------------------------


def _keys(keys: str) -> str:
    return _bold(keys_words(keys))


def _bold(keys: str) -> str:
    """Keys that are divided by two blanks, each in bold."""
    return ", ".join(f"**{key}**" for key in keys.split("  "))


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


if __name__ == "__main__":
    FILE.write_text(keys_text(), encoding="utf-8")
