"""Train the demo model: `python -m assets.train --minutes 65 --work DIR`; `--resume` goes on.

The learning rate and the window length follow the share of the time that has passed, so a run
always ends with a finished schedule, however fast the machine is.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from assets import DEMO_DIR, corpus
from assets.model import DemoConfig, DemoModel, state_to_hf
from assets.muon import Muon
from assets.tokenizer import save_tokenizer, train_tokenizer

TOKENIZER_SEED: Final = 1
TOKENIZER_CHATS: Final = 10_000
CURRICULUM: Final = ((0.18, 256), (0.42, 512), (1.0, 1024))
"""(share of the run, window length in tokens): short first, so that copying is found early."""
BALANCE_WEIGHT: Final = 0.05
USER_WEIGHT: Final = 0.3
"""How much the loss cares for what users say, against 1 for what the model says."""
SAVE_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Plan:
    """How one run is trained. `seconds`: wall time of the whole run, evaluations not counted."""

    seconds: float
    work: Path
    batch_tokens: int = 4096
    adam_lr: float = 3e-3
    muon_lr: float = 0.02
    use_muon: bool = True
    seed: int = 0


def make_tokenizer(folder: Path) -> None:
    """Train the tokenizer on the corpus and write it to `folder`, with config.json."""
    config = DemoConfig()
    chats = corpus.documents("train", TOKENIZER_SEED, TOKENIZER_CHATS)
    texts = (message["content"] for chat in chats for message in chat)
    # Most words follow a space, in `[INST] text` as in the replies.
    save_tokenizer(
        train_tokenizer((f" {text}" for text in texts), config.vocab_size),
        folder,
        config.max_length,
    )
    write_config(config, folder)


def write_config(config: DemoConfig, folder: Path) -> None:
    """Write config.json and generation_config.json to `folder`."""
    generation = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False}
    for name, content in (("config", config.to_hf()), ("generation_config", generation)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def export(model: DemoModel, folder: Path) -> None:
    """Write the weights to `folder`, in one step, as a Hugging Face Mixtral."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(model.config, folder)
    partial = folder / "model.safetensors.partial"
    save_file(state_to_hf(model), partial, metadata={"format": "pt"})
    os.replace(partial, folder / "model.safetensors")


def optimizers(model: DemoModel, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for attention and experts, AdamW for the rest (or for everything)."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        inner = name.startswith("layers.") and parameter.ndim >= 2 and not name.endswith(".gate")
        (matrices if inner and plan.use_muon else others).append(parameter)
    result: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=plan.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    ]
    if matrices:
        result.append(Muon(matrices, lr=plan.muon_lr, weight_decay=0.01))
    for optimizer in result:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return result


def schedule(done: float) -> float:
    """The share of the peak learning rate when `done` (0 to 1) of the run has passed."""
    warmup = 0.01
    return max(done / warmup, 0.02) if done < warmup else max(0.0, 1 - done) ** 2


def window_length(done: float) -> int:
    """Tokens per window when `done` (0 to 1) of the run has passed."""
    return next(length for until, length in CURRICULUM if done <= until)


def token_weights(ids: Tensor, user_start: int, user_end: int) -> Tensor:
    """The loss weight of each token of ids [batch, length], float32: less for what users say."""
    inside = (ids == user_start).cumsum(1) - (ids == user_end).cumsum(1) > 0
    return torch.where(inside, USER_WEIGHT, 1.0)


class Trainer:
    """A run: model, optimizers, progress, and the files that let it go on after a stop."""

    def __init__(self, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.tokenizer = AutoTokenizer.from_pretrained(DEMO_DIR)
        self.user = self.tokenizer.convert_tokens_to_ids(["[INST]", "[/INST]"])
        self.model = DemoModel(DemoConfig())
        self.optimizers = optimizers(self.model, plan)
        self.elapsed, self.step, self.tokens, self.part = 0.0, 0, 0, 0
        plan.work.mkdir(parents=True, exist_ok=True)

    @property
    def _state_file(self) -> Path:
        return self.plan.work / "state.pt"

    def save(self) -> None:
        """Write everything needed to go on, in one step, and the weights as a checkpoint."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": (self.elapsed, self.step, self.tokens, self.part),
        }
        partial = self._state_file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._state_file)
        export(self.model, self.plan.work / "checkpoint")

    def load(self) -> None:
        """Go on from the last `save`; the corpus goes on with a seed not used before."""
        state = torch.load(self._state_file)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.elapsed, self.step, self.tokens, self.part = state["progress"]
        self.part += 1

    def run(self) -> None:
        """Train until the time of the plan is used up."""
        last_save = started = time.monotonic()
        before, length = self.elapsed, 0
        while self.elapsed < self.plan.seconds:
            done = self.elapsed / self.plan.seconds
            if window_length(done) != length:
                length = window_length(done)
                self.part += 1
                seed = 1000 + self.part
                stream = corpus.packed(self.tokenizer, "train", seed, length)
            rows = self.plan.batch_tokens // length
            ids = torch.from_numpy(np.stack([next(stream) for _ in range(rows)]))
            self._step(ids, schedule(done))
            self.elapsed = before + time.monotonic() - started
            if time.monotonic() - last_save > SAVE_SECONDS:
                self.save()
                last_save = time.monotonic()
        self.save()

    def _step(self, ids: Tensor, rate: float) -> None:
        logits, balance, counts = self.model(ids)
        targets = ids[:, 1:].flatten()
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, reduction="none")
        weights = token_weights(ids, *self.user)[:, 1:].flatten()
        loss = (losses * weights).sum() / weights.sum()
        (loss + BALANCE_WEIGHT * balance).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += ids.numel()
        if self.step % 50 == 0:
            share = counts / counts.float().mean(dim=1, keepdim=True)
            print(
                f"step {self.step} time {self.elapsed:.0f} tokens {self.tokens} "
                f"rate {rate:.3f} length {ids.shape[1]} loss {loss.item():.4f} "
                f"all {losses.mean().item():.4f} "
                f"share {share.min().item():.2f}-{share.max().item():.2f}",
                flush=True,
            )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=70.0)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--tokenizer", action="store_true", help="only train the tokenizer")
    parser.add_argument("--adamw", action="store_true", help="AdamW for everything")
    parser.add_argument("--muon-lr", type=float, default=Plan.muon_lr)
    parser.add_argument("--adam-lr", type=float, default=Plan.adam_lr)
    options = parser.parse_args(arguments)
    if options.tokenizer:
        DEMO_DIR.mkdir(exist_ok=True)
        make_tokenizer(DEMO_DIR)
        return 0
    plan = Plan(
        seconds=options.minutes * 60,
        work=options.work,
        adam_lr=options.adam_lr,
        muon_lr=options.muon_lr,
        use_muon=not options.adamw,
    )
    trainer = Trainer(plan)
    if options.resume:
        trainer.load()
    trainer.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
