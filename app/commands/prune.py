"""`mc-chat prune`: teach a compressed model which experts its tokens can do without."""

import argparse
import dataclasses
from pathlib import Path

from app import units
from app.arguments import Commands, add_json, positive, print_json
from app.loading import model_folder
from app.progress_line import ProgressLine
from app.render import safe_text


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "prune",
        help="learn OTP: which experts each token can do without",
        description="Learn OTP on a compressed model: small routers that tell how many of its "
        "experts each token needs. They are stored with the model, for --pruning otp; learned "
        "again, they replace those that are there.",
    )
    parser.add_argument("model", metavar="MODEL")
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--skip",
        type=float,
        metavar="SHARE",
        help="of the expert slots, 0 to 1, to skip at strength 1; default 0.25",
    )
    much.add_argument(
        "--fewer",
        type=float,
        metavar="SHARE",
        help="of the activated parameters, 0 to 1, to do without at strength 1",
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="learn on this text")
    parser.add_argument("--samples", type=positive, metavar="N", help="windows to learn on")
    parser.add_argument("--window", type=positive, metavar="T", help="tokens of a window")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--offline", action="store_true", help="make no connection at all")
    add_json(parser)
    parser.set_defaults(run=prune)


def prune(options: argparse.Namespace) -> None:
    """Learn, and say what the calibration text will be spared."""
    with ProgressLine() as line:
        folder = model_folder(options.model, line)
        from compress.pruning.job import DEFAULT_SKIPPED, PruneJob, learn_otp

        job = PruneJob(
            folder=folder,
            skipped=DEFAULT_SKIPPED if options.skip is None else options.skip,
            fewer=options.fewer,
            text=options.text,
            samples=options.samples,
            window=options.window,
            device=options.device,
            seed=options.seed,
            offline=options.offline,
        )
        learned = learn_otp(job, lambda step: line.show(f"learning to prune {folder.name}", step))
    if options.json:
        print_json({"name": folder.name, "otp": dataclasses.asdict(learned)})
        return
    print(
        safe_text(
            f"{folder.name} skips {units.share(learned.skipped)} of its expert slots with "
            f"--pruning otp (measured on {learned.calibration})"
        )
    )
