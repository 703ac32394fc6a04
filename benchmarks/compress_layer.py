"""One layer of Mixtral 8x7B at its true width through every stage of a compression.

    python -m benchmarks.compress_layer [--tokens 8192] [--device auto] [--quantizer refined]
                                        [--quick] [--json] [--source DIR]

The layer has random weights in the true layout. It is compressed twice, the second time with half
of the calibration tokens, each time in a process of its own: the difference tells the seconds that
grow with the tokens from the fixed ones, and so what 32 layers with the paper's 128 windows of 2048
tokens would take. Peak memory is compared with what compress.projection predicts. On a CPU the
rounding of one expert is then set beside a straightforward GPTQ (benchmarks.gptq). `--quick`: a
narrower layer. `--source` keeps the checkpoint there, or takes it from there.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.machine import machine
from benchmarks.random_original import mixtral_slice, write_random_original
from compress import projection
from compress.allocation import WIDTHS
from compress.calibration import PAPER_SIZE
from compress.passes import ONE_PASS
from compress.pipeline import CompressJob, compress
from compress.progress import Progress, Stage
from engine import devices
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.manifest import read_manifest

RESULTS = Path(__file__).parent / "results"
STAGES = ONE_PASS[0]
WINDOW = 2048
QUICK = {"hidden_size": 1024, "intermediate_size": 3584, "num_heads": 8, "num_kv_heads": 2}
QUICK_TOKENS = 4096


@dataclass(frozen=True)
class Run:
    """One compression: seconds of each stage, peaks in bytes, what was predicted for them."""

    tokens: int
    device: str
    seconds: dict[str, float]
    operations: dict[str, float]
    host_bytes: int
    device_bytes: int
    predicted_host_bytes: int
    predicted_device_bytes: int
    bits: tuple[int, ...]


class Stopwatch:
    """Adds up the time of each stage from what a job tells."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._stage: Stage = "check"
        self._since = 0.0

    def hear(self, step: Progress) -> None:
        """The time since the last word belongs to the stage that it named."""
        if self._stage in self.seconds:
            self.seconds[self._stage] += step.elapsed_seconds - self._since
        self._stage, self._since = step.stage, step.elapsed_seconds
        print(f"{step.elapsed_seconds:6.0f} s  {step.stage}: {step.message}", file=sys.stderr)


def measure(source: Path, out: Path, tokens: int, device: str, quantizer: str) -> Run:
    """Compress here and now."""
    watch = Stopwatch()
    job = CompressJob(
        source, out, samples=tokens // WINDOW, window=WINDOW, device=device, quantizer=quantizer
    )
    compress(job, watch.hear)
    config = ModelConfig.from_folder(source)
    chosen = devices.choose(device)
    on_gpu = chosen.kind == "cuda"
    work = projection.layer_work(
        config, tokens // WINDOW, WINDOW, len(WIDTHS), projection.sweeps_of(quantizer)
    )
    return Run(
        tokens=tokens,
        device=chosen.name,
        seconds=dict(watch.seconds),
        operations={stage: part.operations for stage, part in work.items()},
        host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
        predicted_host_bytes=projection.host_bytes(config, tokens, chosen.kind),
        predicted_device_bytes=projection.device_bytes(config, tokens) if on_gpu else 0,
        bits=read_manifest(out).layers[0].expert_bits,
    )


def run_apart(source: Path, tokens: int, device: str, quantizer: str) -> Run:
    """Measure in a process of its own: a peak of memory is of a whole process."""
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        words = [str(source), "--out", f"{out}/model", "--tokens", str(tokens)]
        words += ["--device", device, "--quantizer", quantizer]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.compress_layer", "--measure", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return Run(**json.loads(done.stdout))


def split(whole: Run, half: Run) -> dict[str, tuple[float, float]]:
    """Seconds of each stage: fixed, and for each token."""
    parts = {}
    for stage, seconds in whole.seconds.items():
        per_token = (seconds - half.seconds[stage]) / (whole.tokens - half.tokens)
        parts[stage] = (seconds - per_token * whole.tokens, per_token)
    return parts


def paper_hours(parts: dict[str, tuple[float, float]]) -> float:
    """What 32 such layers would take with the paper's calibration, in hours."""
    tokens = PAPER_SIZE.samples * PAPER_SIZE.window
    layer = sum(fixed + per_token * tokens for fixed, per_token in parts.values())
    return MIXTRAL_8X7B.num_layers * layer / 3600


def beside_straightforward(quick: bool) -> dict[str, float]:
    """How many times as long as ours a straightforward GPTQ takes for one expert."""
    words = ["--json", "--quick"] if quick else ["--json"]
    command = [sys.executable, "-m", "benchmarks.gptq", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)["ratios"]
    return found


def markdown(
    config: ModelConfig, whole: Run, half: Run, quantizer: str, ratios: dict[str, float]
) -> str:
    """The tables."""
    parts = split(whole, half)
    lines = [
        "# One layer, compressed",
        "",
        f"{machine()}, on {whole.device}; hidden {config.hidden_size}, {config.num_experts} "
        f"experts of {config.intermediate_size}; {whole.tokens:,} and {half.tokens:,} calibration "
        f"tokens; "
        f"quantizer {quantizer}; torch {torch.__version__}. Bits of the experts: "
        f"{' '.join(map(str, whole.bits))}.",
        "",
        f"| stage | seconds at {whole.tokens:,} tokens | fixed | per 1,000 tokens | GFLOP/s |",
        "|---|---|---|---|---|",
    ]
    for stage, seconds in whole.seconds.items():
        fixed, per_token = parts[stage]
        operations = whole.operations.get(stage, 0.0)
        speed = f"{operations / seconds / 1e9:,.0f}" if operations and seconds else ""
        lines.append(
            f"| {stage} | {seconds:.1f} | {fixed:.1f} | {1000 * per_token:.2f} | {speed} |"
        )
    total, tokens = sum(whole.seconds.values()), PAPER_SIZE.samples * PAPER_SIZE.window
    layers = MIXTRAL_8X7B.num_layers
    lines += [
        f"| all | {total:.1f} | {sum(fixed for fixed, _ in parts.values()):.1f} "
        f"| {1000 * sum(each for _, each in parts.values()):.2f} | |",
        "",
        f"{layers} layers: {layers * total / 3600:.2f} hours with these tokens, "
        f"{paper_hours(parts):.1f} hours with the paper's {tokens:,}.",
        "",
        "| peak | measured | predicted | measured / predicted |",
        "|---|---|---|---|",
    ]
    peaks = [("host memory", whole.host_bytes, whole.predicted_host_bytes)]
    if whole.device_bytes:
        peaks.append(("device memory", whole.device_bytes, whole.predicted_device_bytes))
    for name, measured, predicted in peaks:
        lines.append(
            f"| {name} | {measured / 1e9:.2f} GB | {predicted / 1e9:.2f} GB "
            f"| {measured / predicted:.2f} |"
        )
    if ratios:
        lines += ["", "A straightforward GPTQ of one expert (gptq.md), time over ours:", ""]
        lines += [f"- {name}: {ratio:.2f}" for name, ratio in ratios.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=8192, help="calibration tokens")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quantizer", default="refined")
    parser.add_argument("--quick", action="store_true", help="a narrower layer")
    parser.add_argument("--json", action="store_true", help="print the figures")
    parser.add_argument("--source", type=Path, metavar="DIR", help="keep the checkpoint there")
    parser.add_argument("--measure", type=Path, metavar="SOURCE", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device, quantizer = options.device, options.quantizer
    if options.measure:
        run = measure(options.measure, options.out, options.tokens, device, quantizer)
        print(json.dumps(asdict(run)))
        return
    tokens = QUICK_TOKENS if options.quick else options.tokens
    config = mixtral_slice(1)
    if options.quick:
        config = replace(config, **QUICK)
    with tempfile.TemporaryDirectory() as scratch:
        source = options.source or Path(scratch) / "layer"
        if not source.exists():
            write_random_original(source, config)
        whole = run_apart(source, tokens, device, quantizer)
        half = run_apart(source, tokens // 2, device, quantizer)
    ratios = {} if whole.device_bytes else beside_straightforward(options.quick)
    table = markdown(config, whole, half, quantizer, ratios)
    runs = {"whole": asdict(whole), "half": asdict(half)}
    data = {"machine": machine(), **runs, "straightforward_over_ours": ratios}
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "compress_layer.md").write_text(table, encoding="utf-8")
        (RESULTS / "compress_layer.json").write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1) if options.json else table)


if __name__ == "__main__":
    main()
