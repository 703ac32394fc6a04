"""`mc-chat compress`: from an original checkpoint to one that fits."""

import argparse
import dataclasses
from pathlib import Path

from app import sources
from app.arguments import Commands, add_json, positive, print_json, size
from app.commands.models import facts, quality_lines, table
from app.commands.plan import card, planned
from app.following import compress_here
from app.jobs import Job
from app.progress_line import ProgressLine
from compress.allocator_names import ALLOCATOR_NAMES, default_allocator
from compress.plan import Choice, plan
from compress.quantizer_names import (
    DEFAULT_QUANTIZER,
    QUANTIZER_NAMES,
    is_rotated,
    reads_no_text,
)
from engine import budget
from engine.config import ModelConfig
from engine.errors import DoesNotFitError
from engine.manifest import HEAD_WIDTHS, ROUTER_WIDTHS, read_manifest

_DEFAULT_BITS = 2.5
_PASSED_ON = (
    *("text", "samples", "window", "allocator", "quantizer", "group_size", "error"),
    *("router_bits", "head_bits", "seed"),
)
_FLAGS = ("keep_source", "offline")


@dataclasses.dataclass(frozen=True)
class _Size:
    """The mean bits of the experts; for a program over all layers also their bytes."""

    bits: float
    expert_bytes: int | None = None


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "compress",
        help="compress an original Mixtral",
        description="Compress an original Mixtral. It goes on when the terminal is closed: "
        "`mc-chat watch` shows it again. Ctrl+C stops it; run again, it goes on.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a hub repository, a folder, or demo")
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
    parser.add_argument(
        "--allocator",
        choices=ALLOCATOR_NAMES,
        help="how the bits are spread; default global: one program over all layers; pmq: the "
        "paper's, one for each layer",
    )
    parser.add_argument("--quantizer", choices=QUANTIZER_NAMES, help="how weights become codes")
    parser.add_argument(
        "--group-size", type=int, choices=(64, 128), help="weights that share a scale"
    )
    parser.add_argument(
        "--error",
        choices=("block", "model"),
        help="where an expert's damage is measured: at its block's output, or at the model's",
    )
    parser.add_argument(
        "--router-bits", type=int, choices=ROUTER_WIDTHS, help="bits of the routers; default 16"
    )
    parser.add_argument(
        "--head-bits", type=int, choices=HEAD_WIDTHS, help="bits of the head; default 16"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument(
        "--keep-source", action="store_true", help="keep the downloaded original's files"
    )
    parser.add_argument("--offline", action="store_true", help="make no connection at all")
    parser.add_argument("--restart", action="store_true", help="begin anew, replace what is there")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compress, and print what came out."""
    with ProgressLine() as line:
        line.show(f"compressing {options.source}")
        folder = compress_here(_job(options), line, options.restart)
    show_result(folder, options.json)


def show_result(folder: Path, as_json: bool) -> None:
    """Print what a finished compression has made."""
    manifest = read_manifest(folder)
    result = facts(folder.name, folder, manifest)
    if as_json:
        print_json(result)
    else:
        print(f"{table([result])}\n\n{quality_lines(manifest)}")


def _job(options: argparse.Namespace) -> Job:
    chosen = _size(options)
    source, out = _where(options.source, chosen.bits)
    out = options.out or out
    given = vars(options) | {"expert_bytes": chosen.expert_bytes}
    words = [
        word
        for name in (*_PASSED_ON, "expert_bytes")
        if given[name] is not None
        for word in (_option(name), str(given[name]))
    ]
    words += [_option(name) for name in _FLAGS if given[name]]
    return Job(source, chosen.bits, out.absolute(), options.device, tuple(words))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _where(text: str, bits: float) -> tuple[Path | str, Path]:
    """The source, and where its result goes unless told otherwise. Raises SourceError.

    A repository is only looked at by the job: nothing of it is needed here.
    """
    if sources.is_repository(text):
        return text, sources.result_folder(sources.repository_name(text), bits)
    choice = sources.named(text)
    assert choice.source is not None  # only an original that is yet to be named has none
    return choice.source, choice.folder(bits)


def _size(options: argparse.Namespace) -> _Size:
    if options.vram is None:
        return _Size(_DEFAULT_BITS if options.bits is None else options.bits)
    config = planned(options.source).config
    device = card(options.vram)
    group_size = options.group_size or budget.GROUP_SIZE
    made_with = options.quantizer or DEFAULT_QUANTIZER
    choice = plan(config, device, group_size=group_size, quantizer=made_with)
    if choice.recommended is None:
        raise DoesNotFitError(choice.reason)
    bits, free = choice.recommended.nominal_bits, device.free_bytes
    no_text = reads_no_text(made_with, options.text is not None)
    if (options.allocator or default_allocator(no_text)) != "global":
        return _Size(bits)
    rotated = is_rotated(made_with)
    return _Size(bits, _expert_bytes(config, choice.recommended, group_size, rotated, free))


def _expert_bytes(
    config: ModelConfig, choice: Choice, group_size: int, rotated: bool, free: int
) -> int:
    """What the experts may take: all that fits comfortably beside the rest of ``choice``, and what
    they take in that anyway, where the choice is a tight one."""
    widths = budget.spread_bits(choice.nominal_bits, config.num_experts)
    experts = config.num_layers * budget.expert_bytes(config, widths, group_size, rotated)
    room = int(budget.COMFORT * free) - choice.total_bytes
    return experts + max(0, room)
