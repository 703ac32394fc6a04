"""`mc-chat pull` and `publish`: compressed models from and to the Hugging Face hub."""

import argparse
import dataclasses
from pathlib import Path

from app import paths
from app.arguments import Commands, add_json, print_json
from app.commands.models import compressed_folder, facts, table
from app.progress_line import ProgressLine
from app.render import safe_text
from app.transfer_words import transfer_words
from compress.progress import Transfer
from engine.errors import Interrupted, UsageError
from engine.manifest import read_manifest


def add(commands: Commands) -> None:
    """Add the commands' options."""
    down = commands.add_parser(
        "pull",
        help="download a compressed model",
        description="Download a compressed model. Run again after an interruption, it goes on.",
    )
    down.add_argument("repository", metavar="REPO", help="owner/name on the hub")
    down.add_argument("--out", type=Path, metavar="DIR", help="where it goes; default: installed")
    down.add_argument("--offline", action="store_true", help="make no connection")
    add_json(down)
    down.set_defaults(run=run_pull)
    up = commands.add_parser(
        "publish",
        help="upload a compressed model",
        description="Upload a compressed model with a model card. Log in first: hf auth login.",
    )
    up.add_argument("model", metavar="MODEL")
    up.add_argument("repository", metavar="REPO", help="owner/name on the hub")
    up.add_argument("--private", action="store_true", help="let only the owner see it")
    add_json(up)
    up.set_defaults(run=run_publish)


def run_pull(options: argparse.Namespace) -> None:
    """Download, and print what came."""
    from compress.hub.pull import pull

    name = _repository(options.repository)
    out = options.out or paths.models_dir() / name.split("/")[1]
    out = out.expanduser().absolute()
    with ProgressLine() as line:
        line.show(f"pulling {name}")
        try:
            pull(name, out, _Shown(line, f"pulling {name}").show, options.offline)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; run the same command again to go on") from None
    result = facts(out.name, out, read_manifest(out))
    if options.json:
        print_json(result)
    else:
        print(table([result]))


def run_publish(options: argparse.Namespace) -> None:
    """Upload, and print where it is."""
    from compress.hub.publish import publish

    name = _repository(options.repository)
    folder = compressed_folder(options.model)
    with ProgressLine() as line:
        shown = _Shown(line, f"publishing {folder.name}")
        try:
            done = publish(folder, name, options.private, shown.show)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; run the same command again to go on") from None
    if options.json:
        print_json(dataclasses.asdict(done))
    else:
        print(safe_text(f"{folder.name} is at {done.url}, {len(done.uploaded)} files were new"))


def _repository(text: str) -> str:
    from compress.hub import is_repository_name

    if not is_repository_name(text):
        raise UsageError(f"{text!r} is no repository of the hub: write it like owner/name")
    return text


class _Shown:
    """A transfer on the progress line: share, bytes, speed, time left."""

    def __init__(self, line: ProgressLine, title: str) -> None:
        self._line = line
        self._title = title

    def show(self, transfer: Transfer) -> None:
        """Show where it is."""
        self._line.show(self._title, transfer_words(transfer))
