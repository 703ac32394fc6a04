"""`mc-chat eval` and `mc-chat bench`: how good a model is, and how fast."""

import argparse
import dataclasses

from app import units
from app.arguments import Commands, add_json, positive, print_json
from app.loading import load_session
from app.progress_line import ProgressLine


def add(commands: Commands) -> None:
    """Add the commands' options."""
    bench = commands.add_parser("bench", help="measure a model's speed")
    bench.add_argument("model", metavar="MODEL")
    bench.add_argument("--prompt", type=positive, default=256, metavar="N", help="prompt tokens")
    bench.add_argument("--tokens", type=positive, default=64, metavar="N", help="tokens to decode")
    bench.add_argument("--pruning", choices=("odp", "off"), default="odp")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_json(bench)
    bench.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> None:
    """Print medians over a few runs."""
    with ProgressLine() as line:
        session = load_session(options.model, options.device, None, line)
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
        f"{units.size(speed.memory_bytes_per_second)}/s"
    )
