"""What the commands that talk with a model share: how it is asked.

A value comes from an option, else from ``--preset``, else from the settings.
"""

import argparse
import dataclasses
from dataclasses import dataclass

from app import paths, settings
from app.arguments import add_kv_bits, allowed, positive
from app.settings import Preset
from engine.budget import KvBits
from engine.errors import UsageError
from engine.protocol import PruningMode, SamplingOptions

_SAMPLING = {
    "temperature": (float, "T", "0: always the likeliest token"),
    "top_k": (int, "K", "draw among the K likeliest tokens; 0: all"),
    "top_p": (float, "P", "draw among the fewest tokens that reach this share; 1: all"),
    "min_p": (float, "P", "leave out tokens below this share of the likeliest; 0: none"),
    "repetition_penalty": (float, "R", "make what came before less likely; 1: off"),
}


@dataclass(frozen=True)
class Asking:
    """How a model is loaded and asked; as in `engine.protocol.Load` and `Generate`.

    ``preset`` names the one that was asked for, ``own_system``: ``system`` was, too.
    """

    system: str
    own_system: bool
    preset: str
    sampling: SamplingOptions
    max_tokens: int | None
    stop: tuple[str, ...]
    pruning: PruningMode
    device: str
    context: int | None
    force: bool
    kv_bits: KvBits


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--system", metavar="TEXT", help="what the model is told beforehand")
    parser.add_argument("--preset", metavar="NAME", help="a preset of the settings")
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="longest reply")
    for name, (kind, metavar, words) in _SAMPLING.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=allowed(name, kind), metavar=metavar, help=words)
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same tokens every time")
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be repeated"
    )
    parser.add_argument("--pruning", choices=("odp", "otp", "off"), help="skip unimportant experts")
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--context", type=positive, metavar="N", help="tokens of context")
    parser.add_argument(
        "--force", action="store_true", help="try it even where the model does not fit the memory"
    )
    add_kv_bits(parser, default=None)


def asking(options: argparse.Namespace) -> Asking:
    """What the options, the preset and the settings come to. Raises UsageError."""
    defaults = settings.load(paths.settings_file())
    preset = defaults.preset(options.preset) if options.preset else Preset()
    own = {name: getattr(options, name) for name in (*_SAMPLING, "seed")}
    given = {name: value for name, value in own.items() if value is not None}
    stop = tuple(options.stop or ())
    if "" in stop:
        raise UsageError("--stop needs a text")

    systems = (options.system, preset.system, defaults.system)
    return Asking(
        system=next(text for text in systems if text is not None),
        own_system=options.system is not None or preset.system is not None,
        preset=options.preset or "",
        sampling=dataclasses.replace(preset.sampling(defaults.sampling), **given),
        max_tokens=options.max_tokens or defaults.max_tokens,
        stop=stop,
        pruning=options.pruning or defaults.pruning,
        device=options.device or defaults.device,
        context=options.context or defaults.context,
        force=options.force,
        kv_bits=options.kv_bits or defaults.kv_bits,
    )
