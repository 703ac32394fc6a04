"""`mc-chat compress`: from an original checkpoint to one that fits."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from app import sources
from app.arguments import Commands, add_json, positive, print_json, size
from app.commands.models import facts, table
from app.commands.plan import card
from app.loading import compress_with_progress
from app.progress_line import ProgressLine
from compress.plan import plan
from engine.config import ModelConfig
from engine.errors import DoesNotFitError
from engine.manifest import read_manifest

if TYPE_CHECKING:
    from compress.pipeline import CompressJob

_DEFAULT_BITS = 2.5


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "compress",
        help="compress an original Mixtral",
        description="Compress an original Mixtral. Run again after an interruption, it goes on.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, or demo")
    width = parser.add_mutually_exclusive_group()
    width.add_argument(
        "--bits", type=float, metavar="K", help=f"mean bits of the experts; default {_DEFAULT_BITS}"
    )
    width.add_argument(
        "--vram", type=size, metavar="SIZE", help="the most bits that fit this much GPU memory"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the result goes")
    parser.add_argument("--text", type=Path, metavar="FILE", help="calibrate on this text")
    parser.add_argument("--samples", type=positive, metavar="N", help="windows to calibrate on")
    parser.add_argument("--window", type=positive, metavar="T", help="tokens of a window")
    parser.add_argument("--allocator", metavar="NAME", help="how the bits are spread: pmq, ...")
    parser.add_argument("--quantizer", metavar="NAME", help="gptq or rtn")
    parser.add_argument("--group-size", type=int, metavar="N", help="weights that share a scale")
    parser.add_argument("--error", metavar="WHERE", help="where errors are measured: block")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--restart", action="store_true", help="begin anew, replace what is there")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compress, and print what came out."""
    with ProgressLine() as line:
        line.show(f"compressing {options.source}")
        folder = compress_with_progress(_job(options), line)
    result = facts(folder.name, folder, read_manifest(folder))
    if options.json:
        print_json(result)
    else:
        print(table([result]))


def _job(options: argparse.Namespace) -> "CompressJob":
    from compress.pipeline import CompressJob

    source = sources.named(options.source)
    assert source.source is not None  # only the built-in Mixtral has no folder
    bits = _bits(options, source.config)
    names = {field.name for field in dataclasses.fields(CompressJob)} - {"source", "out", "bits"}
    given = {
        name: value for name, value in vars(options).items() if name in names and value is not None
    }
    out = options.out or source.folder(bits)
    return CompressJob(source=source.source, out=out, bits=bits, **given)


def _bits(options: argparse.Namespace, config: ModelConfig) -> float:
    if options.vram is None:
        return _DEFAULT_BITS if options.bits is None else float(options.bits)
    choice = plan(config, card(options.vram))
    if choice.recommended is None:
        raise DoesNotFitError(choice.reason)
    return choice.recommended.nominal_bits
