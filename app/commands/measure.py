"""`mc-chat eval` and `mc-chat bench`: how good a model is, and how fast."""

import argparse
import dataclasses
from pathlib import Path

from app import models, units
from app.arguments import Commands, add_json, add_kv_bits, positive, print_json
from app.evaluation_table import report_lines
from app.loading import load_session, model_folder
from app.progress_line import ProgressLine
from assets import DEMO_DIR
from engine.errors import UsageError


def add(commands: Commands) -> None:
    """Add the commands' options."""
    evaluation = commands.add_parser("eval", help="measure a model's quality")
    evaluation.add_argument("model", metavar="MODEL", help="compressed, or an original's folder")
    evaluation.add_argument("--text", type=Path, metavar="FILE", help="perplexity on this text")
    evaluation.add_argument("--window", type=positive, metavar="T", help="tokens of a window")
    evaluation.add_argument(
        "--tasks",
        nargs="+",
        default=(),
        metavar="TASK",
        help="skills, recall: the demo's; needle: far recall by length and depth; "
        "harness:NAME[,NAME]: lm-evaluation-harness's",
    )
    evaluation.add_argument(
        "--task-path",
        type=Path,
        metavar="DIR",
        help="harness tasks of your own: YAML files, paths in them relative to DIR",
    )
    evaluation.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help="draw the needle's grid, as an SVG"
    )
    evaluation.add_argument(
        "--against",
        metavar="ORIGINAL",
        help="compare with this model, token by token: a folder, a name, or demo for its 16 bits",
    )
    evaluation.add_argument("--pruning", choices=("odp", "otp", "off"), default="off")
    evaluation.add_argument(
        "--token-by-token", action="store_true", help="perplexity as decoding has it, too"
    )
    evaluation.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_kv_bits(evaluation)
    add_json(evaluation)
    evaluation.set_defaults(run=run_eval)
    bench = commands.add_parser("bench", help="measure a model's speed")
    bench.add_argument("model", metavar="MODEL")
    bench.add_argument("--prompt", type=positive, default=256, metavar="N", help="prompt tokens")
    bench.add_argument("--tokens", type=positive, default=64, metavar="N", help="tokens to decode")
    bench.add_argument("--pruning", choices=("odp", "otp", "off"), default="odp")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_kv_bits(bench)
    add_json(bench)
    bench.set_defaults(run=run_bench)


def run_eval(options: argparse.Namespace) -> None:
    """Print what was measured, and draw the needle's grid where a picture is wanted."""
    picture: Path | None = options.picture
    tasks = tuple(options.tasks)
    if picture is not None:
        if picture.suffix != ".svg":
            raise UsageError(f"--picture draws an SVG: name it {picture.with_suffix('.svg')}")
        tasks = tuple(dict.fromkeys((*tasks, "needle")))
    with ProgressLine() as line:
        folder = model_folder(options.model, line)
        from compress.evaluation import Scope, evaluate
        from engine.devices import choose

        scope = Scope(
            text=options.text,
            window=options.window,
            tasks=tasks,
            task_folder=options.task_path,
            pruning=options.pruning,
            kv_bits=options.kv_bits,
            token_by_token=options.token_by_token,
            against=_original(options.against),
        )
        found = evaluate(folder, scope, choose(options.device).id, line.show)
    if picture is not None and found.recall_grid is not None:
        from compress.evaluation.heat_map import draw

        _write(picture, draw(found.recall_grid, f"{options.model}: facts recalled"))
    if options.json:
        print_json(dataclasses.asdict(found))
    else:
        print("\n".join(report_lines(found)))


def _write(path: Path, picture: str) -> None:
    try:
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another") from None


def _original(name: str | None) -> Path | None:
    """What to compare with; the demo's name means the original here."""
    if name is None:
        return None
    return DEMO_DIR if name == models.DEMO else models.resolve(name)


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
