"""All commands of the screen: the palette, the slash commands and the page of keys are made of it.

A command is an action of the app or of the screen below; it is offered where that screen has it.
"""

from dataclasses import dataclass

from app.key_names import ACTIONS
from engine.errors import UsageError


@dataclass(frozen=True)
class Command:
    """``name`` is typed after a slash, ``words`` say what it does. ``key`` names its keys in
    `app.key_names` and in the settings, empty: it has none. ``argument``: what may stand behind
    the name, which goes to the action ``with_argument``."""

    name: str
    subject: str
    words: str
    action: str
    key: str = ""
    argument: str = ""
    with_argument: str = ""

    def keys(self, chosen: dict[str, str]) -> str:
        """Its keys, those that the settings chose first; in Textual's names, empty if none."""
        return chosen.get(self.key, ACTIONS[self.key]) if self.key else ""


CHAT, ENGINE, APP = "Chat", "Engine", "mc-chat"

COMMANDS: tuple[Command, ...] = (
    Command("stop", CHAT, "stop the reply; what was written stays", "screen.stop", "stop"),
    Command("again", CHAT, "another reply to the last message", "screen.again", "again"),
    Command("continue", CHAT, "go on with a reply that was cut", "screen.go_on", "go_on"),
    Command("answers", CHAT, "system prompt, presets, sampling", "screen.answering", "answering"),
    Command("new", CHAT, "begin a new chat", "screen.new_chat", "new_chat"),
    Command(
        *("system", CHAT, "what the model is told beforehand", "screen.answering", ""),
        *("TEXT, or none", "screen.system_as"),
    ),
    Command(
        *("export", CHAT, "write this chat to a file", "screen.export_to", ""),
        *("FILE.md or .json", "screen.export_to"),
    ),
    Command("compare", CHAT, "A/B: the last reply beside another one", "screen.compare"),
    Command("drop", CHAT, "leave the older half out, and ask again", "screen.drop_oldest"),
    Command("chats", CHAT, "open, search, rename, delete, export", "screen.chats", "chats"),
    Command(
        *("pruning", ENGINE, "the next way to prune, or none, at once"),
        *("screen.pruning", "pruning", "on, off or 0 to 2", "screen.prune_as"),
    ),
    Command("weaker", ENGINE, "prune less", "screen.strength(-1)", "weaker"),
    Command("stronger", ENGINE, "prune more", "screen.strength(1)", "stronger"),
    Command("gauges", ENGINE, "show or hide the gauges", "screen.gauges", "gauges"),
    Command("map", ENGINE, "the experts, and which of them run", "app.map", "map"),
    Command("beside", ENGINE, "the same beside the chat, live", "screen.beside", "beside"),
    Command("models", ENGINE, "load, verify, publish or make models", "app.models", "models"),
    Command(
        *("model", ENGINE, "go on with another model", "app.models", ""),
        *("NAME", "screen.load_model"),
    ),
    Command(
        *("ownmodel", ENGINE, "load the model this chat was held with"),
        *("screen.own_model", "own_model"),
    ),
    Command("sleep", ENGINE, "free the memory until the next message", "app.sleep", "sleep"),
    Command("restart", ENGINE, "restart the engine", "screen.restart", "restart"),
    Command(
        *("theme", APP, "choose the colours"),
        *("app.change_theme", "", "NAME", "app.use_theme"),
    ),
    Command("help", APP, "all keys and commands", "app.help", "help"),
    Command("quit", APP, "leave; chats are kept, compressions go on", "app.quit", "quit"),
)


def begun(text: str) -> list[Command]:
    """The commands that a line being written can become, or whose argument it names; none where it
    is a message."""
    name, space, _ = text.removeprefix("/").partition(" ")
    if not text.startswith("/") or "\n" in text:
        return []
    if space:
        return [each for each in COMMANDS if each.name == name.lower() and each.with_argument]
    return [each for each in COMMANDS if each.name.startswith(name.lower())]


def action_of(text: str) -> str:
    """The action that a line like ``/theme nord`` asks for. Raises UsageError naming what is."""
    name, _, argument = text.removeprefix("/").strip().partition(" ")
    command = next((each for each in COMMANDS if each.name == name.lower()), None)
    if command is None:
        names = " ".join(f"/{each.name}" for each in COMMANDS)
        raise UsageError(f"there is no /{name}; there are: {names}")
    argument = argument.strip()
    if not argument:
        return command.action
    if not command.with_argument:
        raise UsageError(f"/{command.name} stands alone")
    return f"{command.with_argument}({argument!r})"
