"""`mc-chat eval` and `mc-chat bench`: how good a model is, and how fast."""

import argparse
import dataclasses
from pathlib import Path

from app import units
from app.arguments import Commands, add_json, add_kv_bits, positive, print_json
from app.loading import load_session, model_folder
from app.progress_line import ProgressLine


def add(commands: Commands) -> None:
    """Add the commands' options."""
    evaluation = commands.add_parser("eval", help="measure a model's quality")
    evaluation.add_argument("model", metavar="MODEL", help="compressed, or an original's folder")
    evaluation.add_argument("--text", type=Path, metavar="FILE", help="perplexity on this text")
    evaluation.add_argument("--window", type=positive, metavar="T", help="tokens of a window")
    evaluation.add_argument(
        "--tasks", nargs="+", default=(), metavar="TASK", help="the demo's: skills, recall"
    )
    evaluation.add_argument("--pruning", choices=("odp", "off"), default="off")
    add_kv_bits(evaluation)
    add_json(evaluation)
    evaluation.set_defaults(run=run_eval)
    bench = commands.add_parser("bench", help="measure a model's speed")
    bench.add_argument("model", metavar="MODEL")
    bench.add_argument("--prompt", type=positive, default=256, metavar="N", help="prompt tokens")
    bench.add_argument("--tokens", type=positive, default=64, metavar="N", help="tokens to decode")
    bench.add_argument("--pruning", choices=("odp", "off"), default="odp")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_kv_bits(bench)
    add_json(bench)
    bench.set_defaults(run=run_bench)


def run_eval(options: argparse.Namespace) -> None:
    """Print perplexity and the tasks' shares of right answers."""
    with ProgressLine() as line:
        folder = model_folder(options.model, line)
        from compress.evaluation import evaluate

        found = evaluate(
            folder,
            options.text,
            options.window,
            options.tasks,
            options.pruning,
            line.show,
            options.kv_bits,
        )
    if options.json:
        print_json(dataclasses.asdict(found))
        return
    print(f"perplexity {found.perplexity:.3f} over {found.tokens} tokens")
    print(f"{units.share(found.prune_ratio)} of the expert slots skipped")
    for task, rows in found.tasks.items():
        for row, right in rows.items():
            print(f"{task}: {row:<20} {units.share(right)}")


def run_bench(options: argparse.Namespace) -> None:
    """Print medians over a few runs."""
    with ProgressLine() as line:
        session = load_session(options.model, options.device, None, line, kv_bits=options.kv_bits)
        from engine.speed import measure

        speed = measure(
            session.generator,
            session.pruning(options.pruning),
            options.prompt,
            options.tokens,
            line.show,
        )
    if options.json:
        print_json(dataclasses.asdict(speed))
        return
    print(
        f"decode   {speed.decode_tokens_per_second:.1f} tokens/s\n"
        f"prefill  {speed.prefill_tokens_per_second:.1f} tokens/s\n"
        f"weights  {units.size(speed.bytes_per_token)} a token, "
        f"{units.share(speed.bandwidth_fraction)} of the memory's "
        f"{units.size(speed.memory_bytes_per_second)}/s\n"
        f"pruned   {units.share(speed.prune_ratio)} of the expert slots\n"
        f"memory   {units.size(speed.peak_bytes)} at most"
    )
