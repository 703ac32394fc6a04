"""`mc-chat chat`: the screen with a model, or the chat in plain lines."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from app import models, opening, paths
from app.arguments import Commands
from app.asking import Asking, add_asking, asking
from app.load_choices import LoadChoice, recall
from engine.errors import UsageError


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "chat",
        help="chat on the screen, or in plain lines",
        description="Chat on the screen. With --plain: line by line, without colours, cursor "
        "movement or a screen, for screen readers, dumb terminals and scripts; a script's "
        "questions can be piped in, a line each. The options are for --plain.",
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="an installed name, a folder, or demo"
    )
    parser.add_argument("--plain", action="store_true", help="line by line")
    add_asking(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Chat until the person leaves."""
    if not options.plain:
        _refuse_options_of_plain(options)
        opening.open_screen(options.model)
        return
    from app.history import History
    from app.last_used import last_used
    from app.plain_chat import PlainChat
    from app.plain_input import PlainInput

    how = asking(options)
    history = History(paths.history_db())
    try:
        model = options.model
        if model is None:
            folder = last_used(history)
            model = models.DEMO if folder is None else folder.name
        ask = input if opening.is_terminal() else None
        lines = PlainInput(sys.stdin, ask)
        chat = PlainChat(history, how, _load_as(options, how), lines, sys.stdout, sys.stderr)
        chat.run(model)
    finally:
        history.close()


def _refuse_options_of_plain(options: argparse.Namespace) -> None:
    from app.cli import parser  # it is made of the commands, this one too

    usual = vars(parser().parse_args(["chat"]))
    for name, value in vars(options).items():
        if name != "model" and value != usual[name]:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is for --plain; on the screen it is chosen there")


def _load_as(options: argparse.Namespace, how: Asking) -> Callable[[Path], LoadChoice]:
    """What is asked for here, else what the wizard chose for the model, else the settings."""
    general = LoadChoice(how.device, how.context, how.force)
    if options.device or options.context or options.force:
        return lambda folder: general
    return lambda folder: recall(folder) or general
