"""`mc-chat plan`: what fits, at which widths, and why."""

import argparse
import dataclasses
from pathlib import Path

from app import models, paths, settings, sources, units
from app.arguments import Commands, add_json, add_kv_bits, positive, print_json, size
from app.device_words import memory_words
from app.job_words import needs, needs_words
from app.render import safe_text
from app.sources import SourceChoice
from compress.plan import Choice, PaperScore, Plan, plan
from engine.budget import CUDA_CONTEXT_BYTES
from engine.config import ModelConfig
from engine.errors import SourceError
from engine.protocol import Device

_UNKNOWN_CPU = Device("the CPU", "cpu", "cpu", 0, 0)
"""Beside a card that is not here: whatever machine it may be in."""
TRY_ANYWAY = "to try it anyway: mc-chat run MODEL --force, or Enter twice in the wizard"


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser("plan", help="show which sizes fit this machine")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        default=sources.MIXTRAL_REPOSITORY,
        help="a hub repository, a folder, or demo; default %(default)s, built in",
    )
    parser.add_argument(
        "--vram", type=size, metavar="SIZE", help="plan for a GPU with this much free memory"
    )
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:N; default auto")
    parser.add_argument("--context", type=positive, metavar="N", help="tokens of context")
    add_kv_bits(parser, default=None)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the table of choices."""
    source = planned(options.source)
    device, others = _devices(options.device, options.vram)
    preferred = models.DEMO_BITS if options.source == models.DEMO else None
    kv_bits = options.kv_bits or settings.load(paths.settings_file()).kv_bits
    result = plan(source.config, device, options.context, preferred, others, kv_bits=kv_bits)
    best = result.recommended
    if options.json:
        needed = needs(source, best.nominal_bits, result.device.kind) if best else None
        making = dataclasses.asdict(needed) if needed else None
        print_json(dataclasses.asdict(result) | {"making": making})
    else:
        print(_table(options.source, result))
        for line in needs_words(source, best.nominal_bits, result.device.kind) if best else []:
            print(safe_text(line))


def _devices(name: str | None, vram: int | None) -> tuple[Device, tuple[Device, ...]]:
    """The device to plan for, and the others of this machine."""
    if name is None and vram is not None:
        return card(vram), (_UNKNOWN_CPU,)
    from engine import devices  # imports torch

    device = devices.choose(name or "auto")
    if vram is not None:
        device = dataclasses.replace(device, free_bytes=vram, total_bytes=vram, note="")
    return device, devices.detect()


def planned(source: str) -> SourceChoice:
    """A source as far as a plan needs it; at most its config.json is downloaded, and a folder
    needs no more.

    Raises SourceError, NetworkError, HubError.
    """
    folder = Path(source).expanduser()
    if source != models.DEMO and folder.is_dir():
        name = folder.resolve().name
        return SourceChoice(name, name, ModelConfig.from_folder(folder), folder)
    if source != models.DEMO and not sources.is_repository(source):
        raise SourceError(f"there is no folder {source}; name a folder, a hub repository or demo")
    return sources.named(source)


def card(free_bytes: int) -> Device:
    """A GPU that is not here, with this much free memory before any program starts on it."""
    left = max(0, free_bytes - CUDA_CONTEXT_BYTES)
    name = f"a GPU with {units.size(free_bytes)} free"
    return Device(name, "cuda", "cuda", free_bytes, left, "what CUDA takes itself deducted")


def _table(source: str, result: Plan) -> str:
    device = result.device
    lines = [
        f"{source} on {device.name}: {memory_words(device)}, context {result.context} tokens",
        "",
        f"{'bits':>6} {'weights':>9} {'KV cache':>9} {'work':>9} {'total':>9}  "
        f"{'fits':<9}{'paper PPL':>9} {'tasks':>7}",
        *(_row(choice, choice == result.recommended) for choice in result.choices),
        "",
    ]
    if result.recommended is None:
        lines += [result.reason, TRY_ANYWAY]
    else:
        lines.append(f"recommended: {result.recommended.nominal_bits:g} bits, {result.reason}")
    return safe_text("\n".join(lines))


def _row(choice: Choice, recommended: bool) -> str:
    sizes = (choice.weights_bytes, choice.kv_bytes, choice.workspace_bytes, choice.total_bytes)
    fits = "tightly" if choice.tight else "yes" if choice.fits else "no"
    perplexity, tasks = _paper(choice.paper_score)
    mark = ">" if recommended else " "
    columns = " ".join(f"{units.size(count):>9}" for count in sizes)
    return (
        f"{mark}{choice.nominal_bits:>5g} {columns}  {fits:<9}{perplexity:>9} {tasks:>7}".rstrip()
    )


def _paper(score: PaperScore | None) -> tuple[str, str]:
    """Perplexity and the mean of the tasks, where the paper has them."""
    if score is None:
        return "", ""
    perplexity = "" if score.perplexity is None else f"{score.perplexity:.2f}"
    return perplexity, "" if score.zero_shot is None else f"{score.zero_shot:.1f} %"
