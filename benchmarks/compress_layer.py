"""One layer of Mixtral 8x7B at its true width through every stage of a compression.

    python -m benchmarks.compress_layer [--tokens 8192] [--device auto] [--quantizer rotated]
                                        [--quick] [--json] [--source DIR]

The layer has random weights in the true layout. Rounding takes as long however many tokens
calibrate, all else grows with them: that is timed apart, and tells what 32 layers with the paper's
128 windows of 2048 tokens would take. Processor seconds stand beside wall-clock ones, and hours are
counted in them over all threads, because other programs may have shared the cores. Peak memory is
compared with what compress.projection predicts. On a CPU the rounding of one expert is then set
beside a straightforward GPTQ (benchmarks.gptq). `--quick`: a narrower layer. `--source` keeps the
checkpoint there, or takes it from there.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from unittest import mock

import torch

from benchmarks.machine import machine
from benchmarks.random_original import mixtral_slice, write_random_original
from compress import projection
from compress.allocation import WIDTHS
from compress.calibration import PAPER_SIZE
from compress.passes import TWO_PASSES
from compress.pipeline import CompressJob, compress
from compress.placement import element_bytes
from compress.progress import Progress, Stage
from compress.projection import Work
from compress.quantizer_names import DEFAULT_QUANTIZER, sweeps_of
from compress.quantizers import Quantizer, Round, quantizer, scoring_quantizer
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from engine import devices
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.manifest import read_manifest

RESULTS = Path(__file__).parent / "results"
STAGES = tuple(stage for stages in TWO_PASSES for stage in stages)
WINDOW = 2048
QUICK = {"hidden_size": 1024, "intermediate_size": 3584, "num_heads": 8, "num_kv_heads": 2}
QUICK_TOKENS = 4096


@dataclass(frozen=True)
class Run:
    """One compression: wall-clock and processor seconds of each stage, those of the processor that
    were spent rounding, peaks in bytes, what was predicted for them. ``growth``: how many times as
    long what grows with the tokens takes with the paper's calibration. On a GPU all seconds are
    wall-clock."""

    tokens: int
    device: str
    threads: int
    wall_seconds: dict[str, float]
    seconds: dict[str, float]
    rounding: dict[str, float]
    growth: dict[str, float]
    operations: dict[str, float]
    host_bytes: int
    device_bytes: int
    predicted_host_bytes: int
    predicted_device_bytes: int
    bits: tuple[int, ...]


class Stopwatch:
    """Adds up the time of each stage from what a job tells, by ``clock`` and on the wall."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.wall_seconds = dict.fromkeys(STAGES, 0.0)
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.rounding = dict.fromkeys(STAGES, 0.0)
        self._clock = clock
        self._stage: Stage = "check"
        self._since, self._since_wall = clock(), 0.0

    def hear(self, step: Progress) -> None:
        """The time since the last word belongs to the stage that it named."""
        now = self._clock()
        if self._stage in self.seconds:
            self.seconds[self._stage] += now - self._since
            self.wall_seconds[self._stage] += step.elapsed_seconds - self._since_wall
        self._stage, self._since, self._since_wall = step.stage, now, step.elapsed_seconds
        print(f"{step.elapsed_seconds:6.0f} s  {step.stage}: {step.message}", file=sys.stderr)

    def timed(self, quantize: Quantizer) -> Quantizer:
        """The same quantizer, its time added to the stage that it works for."""

        def timed(round: Round) -> Round:
            def run(
                weights: torch.Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
            ) -> tuple[Codes, ...]:
                began = self._clock()
                codes = round(weights, hessian, widths, group_size)
                if weights.device.type == "cuda":
                    torch.cuda.synchronize()
                if self._stage in self.rounding:
                    self.rounding[self._stage] += self._clock() - began
                return codes

            return run

        return replace(quantize, round=timed(quantize.round), outside=timed(quantize.dense))


def measure(source: Path, out: Path, tokens: int, device: str, name: str) -> Run:
    """Compress here and now, with the quantizer of this name."""
    chosen = devices.choose(device)
    on_gpu = chosen.kind == "cuda"
    watch = Stopwatch(time.perf_counter if on_gpu else time.process_time)
    job = CompressJob(
        source, out, samples=tokens // WINDOW, window=WINDOW, device=device, quantizer=name
    )
    with (
        mock.patch("compress.pipeline.quantizer", lambda name: watch.timed(quantizer(name))),
        mock.patch(
            "compress.pipeline.scoring_quantizer",
            lambda name: watch.timed(scoring_quantizer(name)),
        ),
        # It speaks the demo's language and is not the demo: another layer of it in float32 for the
        # demo's held-out text would be the peak.
        mock.patch("compress.pipeline.heldout_ends", return_value=None),
    ):
        compress(job, watch.hear)
    config = ModelConfig.from_folder(source)
    work = work_of(config, tokens // WINDOW, name)
    paper = work_of(config, PAPER_SIZE.samples, name)
    return Run(
        tokens=tokens,
        device=chosen.name,
        threads=1 if on_gpu else torch.get_num_threads(),
        wall_seconds=dict(watch.wall_seconds),
        seconds=dict(watch.seconds),
        rounding=dict(watch.rounding),
        growth={stage: growing(paper[stage]) / growing(part) for stage, part in work.items()},
        operations={stage: part.operations for stage, part in work.items()},
        host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
        predicted_host_bytes=projection.host_bytes(
            config, tokens, chosen.kind, element=element_bytes(config, chosen.kind)
        ),
        predicted_device_bytes=projection.device_bytes(config, tokens) if on_gpu else 0,
        bits=read_manifest(out).layers[0].expert_bits,
    )


def work_of(config: ModelConfig, samples: int, name: str) -> dict[Stage, Work]:
    """One layer's work with so many windows, by stage."""
    sweeps = sweeps_of(name)
    return projection.layer_work(config, samples, WINDOW, len(WIDTHS), sweeps, len(TWO_PASSES))


def growing(work: Work) -> float:
    """The operations that there are more of with more tokens."""
    return work.forward + work.hessian


def run_apart(source: Path, tokens: int, device: str, name: str) -> Run:
    """Measure in a process of its own: a peak of memory is of a whole process."""
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        words = [str(source), "--out", f"{out}/model", "--tokens", str(tokens)]
        words += ["--device", device, "--quantizer", name]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.compress_layer", "--measure", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return Run(**json.loads(done.stdout))


def paper_seconds(run: Run) -> float:
    """What this layer would take with the paper's calibration, every thread busy."""
    whole = sum(
        run.rounding[stage] + (seconds - run.rounding[stage]) * run.growth.get(stage, 1.0)
        for stage, seconds in run.seconds.items()
    )
    return whole / run.threads


def beside_straightforward(quick: bool) -> dict[str, float]:
    """How many times as long as ours a straightforward GPTQ takes for one expert."""
    words = ["--json", "--quick"] if quick else ["--json"]
    command = [sys.executable, "-m", "benchmarks.gptq", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)["ratios"]
    return found


@dataclass(frozen=True)
class Report:
    """What was measured with the quantizer ``name``; ``ratios`` of `beside_straightforward`."""

    config: ModelConfig
    run: Run
    name: str
    ratios: dict[str, float] = field(default_factory=dict)

    def markdown(self) -> str:
        """The tables."""
        return markdown(self.config, self.run, self.name, self.ratios)

    def json(self) -> str:
        """The figures."""
        found = {"machine": machine(), **asdict(self.run), "straightforward_over_ours": self.ratios}
        return json.dumps(found, indent=1)

    def write(self) -> None:
        """Leave both under results/; a GPU's figures lie beside those of a CPU."""
        name = "compress_layer_gpu" if self.run.device_bytes else "compress_layer"
        (RESULTS / f"{name}.md").write_text(self.markdown(), encoding="utf-8")
        (RESULTS / f"{name}.json").write_text(self.json() + "\n", encoding="utf-8")


def markdown(config: ModelConfig, run: Run, name: str, ratios: dict[str, float]) -> str:
    """The tables."""
    lines = [
        "# One layer, compressed",
        "",
        f"{machine()}, on {run.device}; hidden {config.hidden_size}, {config.num_experts} experts "
        f"of {config.intermediate_size}; {run.tokens:,} calibration tokens; quantizer {name}; "
        f"torch {torch.__version__}. Bits of the experts: {' '.join(map(str, run.bits))}.",
        "",
        f"| stage | wall-clock seconds | processor seconds, {run.threads} threads "
        "| of these rounding (fixed) | of these growing with the tokens "
        "| GFLOP a processor second |",
        "|---|---|---|---|---|---|",
    ]
    for stage, seconds in run.seconds.items():
        fixed, operations = run.rounding[stage], run.operations.get(stage, 0.0)
        speed = f"{operations / seconds / 1e9:,.0f}" if operations and seconds else ""
        lines.append(
            f"| {stage} | {run.wall_seconds[stage]:.1f} | {seconds:.1f} | {fixed:.1f} "
            f"| {seconds - fixed:.1f} | {speed} |"
        )
    total, fixed = sum(run.seconds.values()), sum(run.rounding.values())
    layers, tokens = MIXTRAL_8X7B.num_layers, PAPER_SIZE.samples * PAPER_SIZE.window
    lines += [
        f"| all | {sum(run.wall_seconds.values()):.1f} | {total:.1f} | {fixed:.1f} "
        f"| {total - fixed:.1f} | |",
        "",
        f"{layers} layers: {layers * total / run.threads / 3600:.1f} hours with these tokens, "
        f"{layers * paper_seconds(run) / 3600:.1f} hours with the paper's {tokens:,} (what grows "
        "multiplied by the operations of `compress.projection`).",
        "",
        "| peak | measured | predicted | measured / predicted |",
        "|---|---|---|---|",
    ]
    peaks = [("host memory", run.host_bytes, run.predicted_host_bytes)]
    if run.device_bytes:
        peaks.append(("device memory", run.device_bytes, run.predicted_device_bytes))
    for what, measured, predicted in peaks:
        lines.append(
            f"| {what} | {measured / 1e9:.2f} GB | {predicted / 1e9:.2f} GB "
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
    parser.add_argument("--quantizer", default=DEFAULT_QUANTIZER)
    parser.add_argument("--quick", action="store_true", help="a narrower layer")
    parser.add_argument("--json", action="store_true", help="print the figures")
    parser.add_argument("--source", type=Path, metavar="DIR", help="keep the checkpoint there")
    parser.add_argument("--measure", type=Path, metavar="SOURCE", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device, name = options.device, options.quantizer
    if options.measure:
        run = measure(options.measure, options.out, options.tokens, device, name)
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
        run = run_apart(source, tokens, device, name)
    # Written before the comparison, which takes minutes more, and once more behind it.
    report = Report(config, run, name)
    if not options.quick:
        report.write()
    if not run.device_bytes:
        report = replace(report, ratios=beside_straightforward(options.quick))
        if not options.quick:
            report.write()
    print(report.json() if options.json else report.markdown())


if __name__ == "__main__":
    main()
