"""`mc-chat export` and `import`: a compressed model in another program's format, and back."""

import argparse
import os
from pathlib import Path

from app import paths, units
from app.arguments import Commands, add_json, print_json
from app.commands.models import compressed_folder, facts, table
from app.progress_line import ProgressLine
from app.render import safe_text
from engine.errors import UsageError
from engine.manifest import read_manifest

_FORMATS = ("hqq",)


def add(commands: Commands) -> None:
    """Add the commands' options."""
    out = commands.add_parser(
        "export",
        help="write a compressed model for another program",
        description="Write a compressed model as hqq's packed layers, in safetensors.",
    )
    out.add_argument("model", metavar="MODEL")
    out.add_argument("--format", choices=_FORMATS, required=True, help="the other program")
    out.add_argument("--out", type=Path, metavar="DIR", help="a new folder; default ./MODEL-FORMAT")
    add_json(out)
    out.set_defaults(run=export)
    back = commands.add_parser(
        "import",
        help="take an exported model back",
        description="Take back what export wrote, with the layers that hqq has changed since.",
    )
    back.add_argument("folder", type=Path, metavar="DIR", help="what export wrote")
    back.add_argument(
        "--out", metavar="NAME", help="the model's name, or a new folder; default that of DIR"
    )
    add_json(back)
    back.set_defaults(run=import_model)


def export(options: argparse.Namespace) -> None:
    """Write the model's layers as hqq packs them."""
    from compress.interchange.hqq_export import export_hqq

    folder = compressed_folder(options.model)
    out = (options.out or Path(f"{folder.name}-{options.format}")).expanduser().absolute()
    with ProgressLine() as line:
        done = export_hqq(folder, out, line.show)
    if options.json:
        print_json(
            {
                "name": folder.name,
                "format": options.format,
                "folder": str(done.folder),
                "files": done.files,
                "bytes": done.bytes,
            }
        )
    else:
        print(safe_text(f"{folder.name} is in {done.folder}, {units.size(done.bytes)}"))


def import_model(options: argparse.Namespace) -> None:
    """Make an installed model of an export."""
    from compress.interchange.hqq_import import import_hqq

    folder = options.folder.expanduser().absolute()
    out = _out(options.out or folder.name.removesuffix("-hqq"))
    with ProgressLine() as line:
        done = import_hqq(folder, out, line.show)
    result = facts(done.folder.name, done.folder, read_manifest(done.folder))
    if options.json:
        print_json(result | {"changed": list(done.changed)})
        return
    print(table([result]))
    if done.changed:
        print(safe_text(f"not as they were exported: {', '.join(done.changed)}"))


def _out(text: str) -> Path:
    """A name is that of an installed model, a path that of a folder."""
    if os.sep in text:
        return Path(text).expanduser().absolute()
    if text in {"", ".", "..", "~"}:
        raise UsageError(f"{text!r} is no name for a model; give one by --out")
    return paths.models_dir() / text
