"""`mc-chat run`: one question, one answer."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from app import units
from app.arguments import Commands, add_json, positive, print_json
from app.loading import load_session
from app.progress_line import ProgressLine
from app.render import safe_text
from engine.errors import DoesNotFitError, UsageError
from engine.protocol import Finished, Generate, Message, SamplingOptions

if TYPE_CHECKING:
    from engine.session import Session


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "run",
        help="ask a model one question",
        description="Ask a model one question. Text piped in is added to the prompt.",
    )
    parser.add_argument("model", metavar="MODEL", help="an installed name, a folder, or demo")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told beforehand")
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="longest reply")
    defaults = SamplingOptions()
    parser.add_argument(
        "--temperature",
        type=float,
        default=defaults.temperature,
        metavar="T",
        help="0: always the likeliest token; default %(default)s",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same tokens every time")
    parser.add_argument(
        "--pruning", choices=("odp", "off"), default="odp", help="skip unimportant experts"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--context", type=positive, metavar="N", help="tokens of context")
    parser.add_argument(
        "--force", action="store_true", help="try it even where the model does not fit the memory"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Answer and print, streaming unless --json."""
    question = _question(options)
    session = _load(options)
    finished = _answer(session, question, stream=not options.json)
    if options.json:
        result = dataclasses.asdict(finished)
        del result["id"]
        print_json(result)
    elif sys.stdout.isatty() and sys.stderr.isatty():
        print(_summary(finished), file=sys.stderr)


def _load(options: argparse.Namespace) -> "Session":
    try:
        with ProgressLine() as line:
            return load_session(options.model, options.device, options.context, line, options.force)
    except DoesNotFitError as error:
        if options.force:
            raise
        raise DoesNotFitError(f"{error}; or try it anyway with --force") from None


def _question(options: argparse.Namespace) -> Generate:
    parts = [options.prompt, None if sys.stdin.isatty() else sys.stdin.read()]
    prompt = "\n\n".join(part for part in parts if part and part.strip())
    if not prompt:
        raise UsageError("there is no prompt; write it behind the model's name, or pipe it in")
    system = [Message("system", options.system)] if options.system else []
    return Generate(
        id=0,
        messages=(*system, Message("user", prompt)),
        sampling=SamplingOptions(temperature=options.temperature, seed=options.seed),
        max_tokens=options.max_tokens,
        pruning=options.pruning,
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
        f"[{finished.tokens} tokens, {finished.tokens_per_second:.1f} tokens/s, "
        f"{units.quantity(meters.activated_params)} parameters a token "
        f"({units.share(meters.activated_fraction)}), "
        f"{units.share(meters.prune_ratio)} of the expert slots skipped]"
    )
