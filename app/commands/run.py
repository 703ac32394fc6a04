"""`mc-chat run`: one question, one answer."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from app import units
from app.arguments import Commands, add_json, print_json
from app.asking import Asking, add_asking, asking
from app.attachments import attach, piped, with_attachments
from app.loading import load_session
from app.progress_line import ProgressLine
from app.render import safe_text
from engine.errors import DoesNotFitError, UsageError
from engine.protocol import Finished, Generate, Message

if TYPE_CHECKING:
    from engine.session import Session


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "run",
        help="ask a model one question",
        description="Ask a model one question. The model reads the files first, then what is "
        'piped in, then the prompt: `git diff | mc-chat run MODEL "explain"`. What is not given '
        "here is as in the settings.",
    )
    parser.add_argument("model", metavar="MODEL", help="an installed name, a folder, or demo")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?")
    parser.add_argument(
        *("--file", "-f"),
        action="append",
        default=[],
        metavar="FILE",
        help="a text file that goes with the prompt; may be repeated",
    )
    add_asking(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Answer and print, streaming unless --json."""
    how = asking(options)
    question = _question(options, how)
    session = _load(options.model, how)
    finished = _answer(session, question, stream=not options.json)
    if options.json:
        result = dataclasses.asdict(finished)
        del result["id"]
        print_json(result)
    elif sys.stdout.isatty() and sys.stderr.isatty():
        print(_summary(finished), file=sys.stderr)
    for note in _notes(finished):
        print(f"mc-chat: {note}", file=sys.stderr)


def _load(model: str, how: Asking) -> "Session":
    try:
        with ProgressLine() as line:
            return load_session(model, how.device, how.context, line, how.force, how.kv_bits)
    except DoesNotFitError as error:
        if how.force:
            raise
        raise DoesNotFitError(f"{error}; or try it anyway with --force") from None


def _question(options: argparse.Namespace, how: Asking) -> Generate:
    attachments = [attach(name) for name in options.file]
    if sys.stdin is not None and not sys.stdin.isatty() and (given := piped(sys.stdin)):
        attachments.append(given)
    prompt = with_attachments(options.prompt or "", attachments)
    if not prompt:
        raise UsageError("there is no prompt; write it behind the model's name, or pipe it in")
    system = [Message("system", how.system)] if how.system else []
    return Generate(
        id=0,
        messages=(*system, Message("user", prompt)),
        sampling=how.sampling,
        max_tokens=how.max_tokens,
        stop=how.stop,
        pruning=how.pruning,
    )


def _answer(session: "Session", question: Generate, stream: bool) -> Finished:
    reply = session.start(question, pruning=lambda: question.pruning, cancelled=lambda: False)
    text = ""
    try:
        for piece in session.run(reply):
            text += piece
            if stream:
                print(safe_text(piece), end="", flush=True)
    finally:  # after an interruption, too, the terminal goes on in a new line
        if stream:
            print()
    return session.finished(question.id, text, reply)


def _summary(finished: Finished) -> str:
    meters = finished.meters
    return (
        f"[{finished.tokens} tokens, {units.speed(finished.tokens_per_second)} tokens/s, "
        f"{units.quantity(meters.activated_params)} parameters a token "
        f"({units.share(meters.activated_fraction)}), "
        f"{units.share(meters.prune_ratio)} of the expert slots skipped]"
    )


def _notes(finished: Finished) -> list[str]:
    """What a reader of the answer alone would not know."""
    notes = []
    if not finished.text.strip():
        notes.append("the model ended its reply without a word; ask in another way")
    if finished.finish_reason == "context":
        size = finished.meters.context_size
        notes.append(f"the reply is cut: the context of {size} tokens is full; see --context")
    return notes
