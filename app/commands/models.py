"""`mc-chat models`, `info`, `verify` and `rm`: what is installed here."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import models, paths, settings, units
from app.arguments import Commands, add_json, print_json
from app.progress_line import ProgressLine
from app.pruning_words import default_pruning, known_prunings, ways_lines
from app.quality_words import NOT_MEASURED, agreement_words, percent
from app.render import safe_text
from compress.allocator_names import allocator_words
from engine.errors import CheckpointError
from engine.manifest import (
    FULL_BITS,
    Manifest,
    OtpRecord,
    is_compressed,
    open_manifest,
    read_manifest,
    verify_hashes,
)
from engine.quality import Quality


def add(commands: Commands) -> None:
    """Add the commands' options."""
    listing = commands.add_parser("models", help="list the installed models")
    add_json(listing)
    listing.set_defaults(run=list_models)
    for name, run, text in (
        ("info", info, "show what a model is and how it was made"),
        ("verify", verify, "check every byte of a model"),
        ("rm", remove, "delete an installed model"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.add_argument("model", metavar="MODEL")
        add_json(parser)
        parser.set_defaults(run=run)


def list_models(options: argparse.Namespace) -> None:
    """All installed models, damaged ones with what is wrong."""
    found = [facts(model.name, model.folder, model.manifest) for model in models.installed()]
    damaged = [
        {"name": model.name, "folder": str(model.folder), "problem": model.problem}
        for model in models.damaged()
    ]
    if options.json:
        print_json({"models": found, "damaged": damaged})
        return
    if found:
        print(table(found))
    for model in damaged:
        print(safe_text(f"{model['name']}: {model['problem']}"))
    if not found and not damaged:
        print("no model is installed; `mc-chat compress demo` makes the demo model")


def info(options: argparse.Namespace) -> None:
    """Everything `mc.json` says, in short."""
    folder = compressed_folder(options.model)
    manifest = read_manifest(folder)
    result = facts(folder.name, folder, manifest)
    if options.json:
        print_json(result)
        return
    print(table([result]))
    print(f"\n{quality_lines(manifest)}")
    wanted = settings.load(paths.settings_file()).pruning
    print(safe_text("\n".join(["", *ways_lines(folder.name, wanted, manifest.otp)])))
    print(safe_text(_details(result)))


def verify(options: argparse.Namespace) -> None:
    """Hash every file. Raises CheckpointError for the first that is not what it was."""
    folder = compressed_folder(options.model)
    manifest = open_manifest(folder)
    with ProgressLine() as line:
        verify_hashes(folder, manifest, lambda name: line.show(f"reading {name}"))
    if options.json:
        print_json({"name": folder.name, "files": len(manifest.files), "whole": True})
    else:
        print(safe_text(f"{folder.name} is whole: {len(manifest.files)} files are what they were"))


def remove(options: argparse.Namespace) -> None:
    """Delete a model under the models folder, never a folder elsewhere."""
    freed = models.remove(options.model)
    if options.json:
        print_json({"name": options.model, "freed_bytes": freed})
    else:
        print(safe_text(f"{options.model} is gone, {units.size(freed)} are free again"))


def facts(name: str, folder: Path, manifest: Manifest) -> dict[str, Any]:
    """What scripts may rely on about one compressed model."""
    return {
        "name": name,
        "folder": str(folder),
        "nominal_bits": manifest.nominal_bits,
        "bits_per_expert_weight": manifest.sizes.bits_per_expert_weight,
        "bits_per_weight": manifest.sizes.bits_per_weight,
        "bytes": manifest.sizes.total_bytes,
        "source": dataclasses.asdict(manifest.source),
        "recipe": dataclasses.asdict(manifest.recipe),
        "expert_bits": [layer.expert_bits for layer in manifest.layers],
        "unforced_bits": [layer.unforced_bits for layer in manifest.layers],
        "odp_thresholds": [layer.odp_threshold for layer in manifest.layers],
        "pruning": _pruning(manifest.otp),
        "expert_errors": manifest.expert_errors(),
        "quality": _quality(manifest.quality),
    }


def _pruning(otp: OtpRecord | None) -> dict[str, Any]:
    wanted = settings.load(paths.settings_file()).pruning
    return {
        "default": default_pruning(wanted, otp),
        "modes": known_prunings(otp),
        "otp": None if otp is None else dataclasses.asdict(otp),
    }


def _quality(found: Quality | None) -> dict[str, Any] | None:
    if found is None:
        return None
    facts = dataclasses.asdict(found)
    if found.agreement is not None:
        facts["agreement"]["perplexity_ratio"] = found.agreement.perplexity_ratio
    return facts


def quality_lines(manifest: Manifest) -> str:
    """What was measured when it was made, nothing if nothing was."""
    found = manifest.quality
    words = agreement_words(found.agreement) if found and found.agreement else [NOT_MEASURED]
    return safe_text("\n".join(words))


def table(found: list[dict[str, Any]]) -> str:
    """One model a line."""
    width = max(len("name"), *(len(model["name"]) for model in found))
    lines = [f"{'name':<{width}} {'bits':>6} {'per expert weight':>18} {'size':>9}  source"]
    lines += [
        f"{model['name']:<{width}} {model['nominal_bits']:>6.3g} "
        f"{model['bits_per_expert_weight']:>18.3f} {units.size(model['bytes']):>9}  "
        f"{model['source']['repository']}"
        for model in found
    ]
    return safe_text("\n".join(lines))


def _details(model: dict[str, Any]) -> str:
    recipe = model["recipe"]
    lines = [
        "",
        f"bits spread by {allocator_words(recipe['allocator'])}; rounded by {recipe['quantizer']}, "
        f"groups of {recipe['group_size']}, calibrated on {recipe['samples']} x "
        f"{recipe['window']} tokens of {recipe['calibration']}, seed {recipe['seed']}",
        *_rest(recipe),
        *recipe["notes"],
        "",
        "layer  bits of each expert    ODP threshold  experts' error  stream's error",
    ]
    quality = model["quality"]
    stream_errors = quality["stream_errors"] if quality else ()
    for layer, bits in enumerate(model["expert_bits"]):
        stream_error = stream_errors[layer] if layer < len(stream_errors) else None
        unforced = model["unforced_bits"][layer]
        beside = (
            f"  without forced widths: {_widths(unforced)}" if unforced not in ((), bits) else ""
        )
        lines.append(
            f"{layer:>5}  {_widths(bits):<21}  {model['odp_thresholds'][layer]:>13.3f}  "
            f"{percent(model['expert_errors'][layer]):>14}  {percent(stream_error):>14}{beside}"
        )
    return "\n".join(lines)


def _widths(bits: Sequence[int]) -> str:
    return " ".join(map(str, bits))


def _rest(recipe: dict[str, Any]) -> list[str]:
    """What is packed that usually stays in 16 bits."""
    widths = {name: recipe[f"{name}_bits"] for name in ("router", "head")}
    words = [f"{name} at {bits} bits" for name, bits in widths.items() if bits != FULL_BITS]
    return [", ".join(words)] if words else []


def compressed_folder(name: str) -> Path:
    """The folder of a compressed model. Raises CheckpointError."""
    folder = models.resolve(name)
    if not is_compressed(folder):
        raise CheckpointError(
            f"{folder} is an original checkpoint; compress it first: `mc-chat compress {folder}`"
        )
    return folder
