"""Checks and times everything that runs on a GPU, in one go and under ten minutes.

    python -m benchmarks.gpu_suite [--memory 24] [--only NAME ...] [--out DIR] [--dry-run]

Kernels against float64, the captured step of every kind of model and pruning against the layers one
by one, what a load compiles ahead and whose 4-bit products it chooses, draws from large
vocabularies and choices among many experts, then a packed model of Mixtral 8x7B's shape with random
codes at 2.5 bits: decoding and prefill, every kernel's time and share of the copying speed,
launches a token, peak memory; last a layer's compression. torch may take ``--memory`` GiB of the
card, as if it were no larger. A section that fails does not hide the others. Writes gpu_suite.json
and gpu_suite.md, with the card's name and the date; exits with 1 where something failed.
`--dry-run`: tiny sizes on the CPU, kernels interpreted, nothing written: whether the suite itself
runs.
"""

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.machine import machine
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.decoding.graph import capture
from engine.devices import release_memory

if TYPE_CHECKING:
    from benchmarks.gpu_checks import CheckSizes, Row
    from benchmarks.gpu_speeds import SpeedSizes

RESULTS = Path(__file__).parent / "results"
LAYER_SECONDS = 240
"""How long the layer's compression may take before it is given up."""

SMALL = ModelConfig(
    vocab_size=32_000,
    hidden_size=1024,
    intermediate_size=1792,
    num_layers=4,
    num_heads=8,
    num_kv_heads=2,
    head_dim=128,
    num_experts=8,
    top_k=2,
    rope_theta=1e6,
    rms_norm_eps=1e-5,
    max_context=512,
)
TINY = replace(
    SMALL,
    vocab_size=48,
    hidden_size=128,
    intermediate_size=128,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    num_experts=3,
    max_context=16,
)


@dataclass(frozen=True)
class Suite:
    """Where the sections run, and how large they are."""

    device: str
    dry: bool

    @property
    def checks(self) -> "CheckSizes":
        """Sizes of the checks."""
        from benchmarks.gpu_checks import CheckSizes

        if self.dry:
            return CheckSizes(40, 128, 128, 3, 40, (1, 5), (torch.float32,), 3, (48, 9000), 3, TINY)
        types = (torch.float32, torch.float16, torch.bfloat16)
        vocabularies = (32_000, 65_536, 151_936)
        return CheckSizes(1000, 1024, 896, 8, 5000, (1, 3, 64), types, 200, vocabularies, 40, SMALL)

    @property
    def speeds(self) -> "SpeedSizes":
        """Sizes of what is timed."""
        from benchmarks.gpu_speeds import SpeedSizes

        if self.dry:
            return SpeedSizes(TINY, (1, 2, 3), True, torch.float32, (4,), 8, 3, (48,), 1)
        bits = (3, 3, 3, 3, 2, 2, 2, 2)
        vocabularies = (32_000, 65_536, 128_256, 151_936)
        return SpeedSizes(
            MIXTRAL_8X7B, bits, True, torch.bfloat16, (512, 4096), 2048, 128, vocabularies, 100
        )

    @property
    def prompts(self) -> tuple[int, ...]:
        """Lengths of the prompts whose kernels are compiled ahead, in tokens."""
        from engine.decoding.warming import WARMED_PROMPTS

        return (2,) if self.dry else WARMED_PROMPTS

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """As a graph, where there is a GPU."""
        return run if self.dry else capture(run)

    def sections(self) -> "dict[str, Callable[[], Iterator[Row]]]":
        """What is run, in this order."""
        from benchmarks import gpu_checks, gpu_loads, gpu_speeds

        device, checks, speeds = self.device, self.checks, self.speeds
        return {
            "products": lambda: gpu_checks.products(checks, device),
            "attention": lambda: gpu_checks.attention(checks, device),
            "drawing": lambda: gpu_checks.drawing(checks, device),
            "routing": lambda: gpu_checks.routing(checks, device),
            "steps": lambda: gpu_checks.steps(checks, device, self.capture),
            "rounding": lambda: gpu_checks.rounding(checks, device),
            "warming": lambda: gpu_loads.warming(speeds, device, self.prompts),
            "dense": lambda: gpu_loads.dense_products(speeds, device),
            "draws": lambda: gpu_speeds.draws(speeds, device, self.capture),
            "routes": lambda: gpu_speeds.routes(speeds, device, self.capture),
            "kernels": lambda: gpu_speeds.kernels(speeds, device, self.capture),
            "launches": lambda: gpu_speeds.launches(speeds, device),
            "model": lambda: gpu_speeds.whole_model(speeds, device, _say),
            "layer": self.layer,
        }

    def layer(self) -> "Iterator[Row]":
        """One layer of Mixtral's width through a compression, in a process of its own."""
        words = ["--device", self.device, "--tokens", "8192", "--json"]
        if self.dry:
            yield {"layer": "not in a dry run"}
            return
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.compress_layer", *words],
            capture_output=True,
            text=True,
            timeout=LAYER_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        run = json.loads(done.stdout)
        yield {
            "layer": f"{run['tokens']:,} tokens",
            "seconds": float(sum(run["wall_seconds"].values())),
            "of these rounding": float(sum(run["rounding"].values())),
            "device peak GB": run["device_bytes"] / 1e9,
            "over predicted": run["device_bytes"] / run["predicted_device_bytes"],
        }


@dataclass(frozen=True)
class Found:
    """What came of one section; ``problem`` is empty where it ran to its end."""

    section: str
    seconds: float
    rows: "list[Row]"
    problem: str

    @property
    def good(self) -> bool:
        """Whether it ran and every check in it held."""
        return not self.problem and all(row.get("ok", True) for row in self.rows)


def run_section(name: str, section: "Callable[[], Iterator[Row]]") -> Found:
    """Run a section; what it found before it failed is kept."""
    _say(name)
    rows: list[Row] = []
    problem, started = "", time.monotonic()
    try:
        rows.extend(section())
    except Exception as error:  # one failure must not hide what the others find
        traceback.print_exc()
        problem = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        )
    release_memory()
    return Found(name, time.monotonic() - started, rows, problem)


def markdown(title: str, found: Sequence[Found]) -> str:
    """One table for each kind of rows in a section."""
    lines = [f"# {title}", ""]
    for part in found:
        lines += [
            f"## {part.section}: {'good' if part.good else 'FAILED'}, {part.seconds:.0f} s",
            "",
        ]
        if part.problem:
            lines += [f"`{part.problem}`", ""]
        for columns, rows in itertools.groupby(part.rows, key=_columns):
            lines.append(f"| {' | '.join(columns)} |")
            lines.append("|" + "---|" * len(columns))
            lines += [f"| {' | '.join(map(_cell, row.values()))} |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def _columns(row: "Row") -> tuple[str, ...]:
    return tuple(row)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else _whole(value)


def _whole(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def limit_memory(gigabytes: float) -> None:
    """Let torch take this many GiB of the card, context and graphs included."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * (1 << 30) / total))


def main() -> int:
    """Run the sections asked for and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--memory", type=float, default=24, metavar="GIB")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU, interpreted")
    options = parser.parse_args()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    elif not torch.cuda.is_available():
        _say("there is no CUDA device here; --dry-run runs the suite's own code on the CPU")
        return 1
    else:
        limit_memory(options.memory)
    torch.manual_seed(0)
    suite = Suite("cpu" if options.dry_run else "cuda:0", options.dry_run)
    sections = suite.sections()
    names = options.only or list(sections)
    found = [run_section(name, sections[name]) for name in names]
    where = machine() if options.dry_run else torch.cuda.get_device_name(0)
    title = f"{where}, {datetime.date.today()}, torch {torch.__version__}"
    print(markdown(title, found))
    if not options.dry_run:
        options.out.mkdir(parents=True, exist_ok=True)
        table = {"machine": title, "sections": [vars(part) for part in found]}
        (options.out / "gpu_suite.json").write_text(json.dumps(table, indent=1, default=str) + "\n")
        (options.out / "gpu_suite.md").write_text(markdown(title, found) + "\n")
    return 0 if all(part.good for part in found) else 1


if __name__ == "__main__":
    sys.exit(main())
