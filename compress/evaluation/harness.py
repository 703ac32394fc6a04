"""Tasks of lm-evaluation-harness, for compressed and original models alike.

Import this module only where such a task was asked for: lm_eval is an extra of this package, and
takes seconds to import.
"""

import contextlib
import io
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before lm_eval is imported, and the hub's client with it: nothing about this machine is sent.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Its intervals would otherwise fork this process, which has torch's threads.
os.environ.setdefault("DISABLE_MULTIPROC", "1")

import numpy as np
import torch
from jinja2 import TemplateError
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.tasks import TaskManager

from compress.evaluation.likelihood import BATCH_TOKENS, new_cache
from compress.evaluation.replies import greedy_ids, same_length
from engine.budget import KvBits
from engine.errors import SourceError, UsageError
from engine.model import Model
from engine.pruning import NO_PRUNING, Pruning
from engine.tokenizer import Tokenizer

logging.getLogger("lm_eval").setLevel(logging.ERROR)

_SEED, _NUMPY_SEED = 0, 1234
"""lm_eval's own, for tasks that shuffle or draw."""
_RESAMPLES = 1_000
"""Of figures whose error has no formula."""
_DEFAULT_REPLY_TOKENS = 256
"""Of a task that says nothing: lm_eval's own default."""

Scored = tuple[float, bool]
"""A continuation's log likelihood in nats, and whether it is the most likely one."""

Listener = Callable[[int, int], None]
"""Hears how many requests of how many are done."""

Encoded = tuple[tuple[str, str], list[int], list[int]]
"""The texts, and the ids of the context and of the continuation."""


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A model as lm_eval asks it.

    Like lm_eval's own adapter for transformers it starts every context with BOS and cuts what is
    too long from the left. Replies are greedy.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        pruning: Pruning = NO_PRUNING,
        kv_bits: KvBits = 16,
        listener: Listener = lambda done, total: None,
    ) -> None:
        super().__init__()
        self._listener = listener
        self._model = model
        self._text = tokenizer
        self._pruning = pruning
        self._kv_bits = kv_bits
        self._longest = model.config.max_context

    @property
    def eot_token_id(self) -> int:
        """The id that ends a reply."""
        return self._model.config.eos_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing else before it."""
        bos = self._text.bos_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """The ids of a text, after BOS unless ``add_special_tokens`` is False."""
        bos = self._text.bos_id
        start = [] if bos is None or add_special_tokens is False else [bos]
        return start + self._text.encode(string)

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: Sequence[Encoded], **unused: Any) -> list[Scored]:
        longest = max((len(after) for _, _, after in requests), default=0)
        if longest > self._longest:
            raise UsageError(
                f"this task's texts have {longest} tokens, the model's context is {self._longest}"
            )
        # The last token of a sequence is only predicted: one more than the context may be given.
        sequences = [(before + after)[-self._longest - 1 :] for _, before, after in requests]
        found: list[Scored] = [(0.0, True)] * len(requests)
        done = 0
        for same in same_length(sequences):
            size = max(1, BATCH_TOKENS // len(sequences[same[0]]))
            for start in range(0, len(same), size):
                chosen = same[start : start + size]
                tokens = torch.tensor([sequences[index] for index in chosen])  # [B, T]
                logits = self._logits(tokens[:, :-1])  # [B, T - 1, V]
                for index, row, ids in zip(chosen, logits, tokens, strict=True):
                    found[index] = _score(row, ids[-len(requests[index][2]) :])
                done += len(chosen)
                self._listener(done, len(requests))
        return found

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of tokens [B, T]."""
        model, (batch, length) = self._model, tokens.shape
        # Only to round: one pass needs no cache.
        cache = None if self._kv_bits == 16 else new_cache(model, batch, length, self._kv_bits)
        return model.forward(tokens.to(model.embed.device), cache, self._pruning)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log likelihood in nats of each whole text, every token predicted once, in windows
        of the context's length, the first one after BOS."""
        windows: list[Encoded] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            (text,) = request.args
            rolling = utils.get_rolling_token_windows(
                self._text.encode(text), self.prefix_token_id, self._longest, context_len=1
            )
            for before, after in map(utils.make_disjoint_window, rolling):
                windows.append(((text, text), before, after))
                owners.append(owner)
        sums = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += score
        return sums

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The greedy continuation of each context, cut before its first stop text.

        Raises UsageError for a task that wants replies drawn by chance, or longer ones than the
        context holds.
        """
        replies = []
        for request in requests:
            replies.append(self._generate(*request.args))
            self._listener(len(replies), len(requests))
        return replies

    def _generate(self, context: str, wishes: dict[str, Any]) -> str:
        options = normalize_gen_kwargs(wishes, _DEFAULT_REPLY_TOKENS)
        if options["do_sample"]:
            raise UsageError("this task wants replies drawn by chance; replies here are greedy")
        until = [text for text in options.get("until", []) if text]
        limit = options["max_gen_toks"]
        room = self._longest - limit
        if room < 1:
            raise UsageError(
                f"this task's replies may have {limit} tokens, the model's context is "
                f"{self._longest}"
            )
        prompt = self.tok_encode(context)[-room:]

        def finished(ids: list[int]) -> bool:
            reply = self._text.decode(ids)
            return any(text in reply for text in until)

        (ids,) = greedy_ids(self._model, [prompt], limit, self._pruning, self._kv_bits, finished)
        text: str = postprocess_generated_text(self._text.decode(ids), until, None)
        return text


def _score(logits: torch.Tensor, targets: torch.Tensor) -> Scored:
    """Of the last tokens of a sequence, ``targets`` [C], by the logits [T, V] of all before."""
    targets = targets.to(logits.device)
    chances = logits[-len(targets) :].float().log_softmax(-1)  # [C, V]
    likelihood = chances.gather(-1, targets[:, None]).sum(dtype=torch.float64)
    return float(likelihood), bool((chances.argmax(-1) == targets).all())


@dataclass(frozen=True)
class HarnessTasks:
    """Tasks that lm_eval knows, or that ``folder`` adds."""

    names: tuple[str, ...]
    folder: Path | None
    manager: TaskManager

    @classmethod
    def find(cls, names: Sequence[str], folder: Path | None = None) -> "HarnessTasks":
        """Look tasks, groups or tags up by their names.

        ``folder`` has tasks of one's own: YAML files, in which paths are relative to it; they may
        name Python functions, which are run. Raises UsageError for an unknown task.
        """
        if folder is not None and not folder.is_dir():
            raise UsageError(f"there is no folder {folder}")
        with _quiet():
            manager = TaskManager(include_path=None if folder is None else str(folder.absolute()))
        unknown = [name for name in names if not manager.match_tasks([name])]
        if unknown:
            raise UsageError(
                f"lm_eval has no task {unknown[0]!r}; --task-path DIR adds tasks of your own"
            )
        return cls(tuple(names), folder, manager)

    def run(
        self,
        model: Model,
        tokenizer: Tokenizer,
        pruning: Pruning = NO_PRUNING,
        kv_bits: KvBits = 16,
        listener: Listener = lambda done, total: None,
    ) -> dict[str, dict[str, float]]:
        """Every figure that lm_eval gives for each task, and for each group beside its members.

        Shots, texts and seeds are the tasks' and lm_eval's own. Raises SourceError where a task or
        its data cannot be read, UsageError for a task that this adapter cannot do.
        """
        adapter = HarnessModel(model, tokenizer, pruning, kv_bits, listener)
        with _quiet(), contextlib.chdir(self.folder or Path.cwd()):
            random.seed(_SEED)
            np.random.seed(_NUMPY_SEED)
            try:
                loaded = self.manager.load(list(self.names))
                for task in loaded["tasks"].values():
                    if task.get_config("num_fewshot") is None:
                        task.set_config(key="num_fewshot", value=0)
                    task.set_fewshot_seed(seed=_NUMPY_SEED)
                found = evaluate(adapter, loaded, bootstrap_iters=_RESAMPLES, log_samples=False)
            except (OSError, ValueError, KeyError, TemplateError) as error:
                what = " ".join(str(error).split())
                raise SourceError(
                    f"{', '.join(self.names)} cannot be run: {what} ({type(error).__name__})"
                ) from error
        return {name: _figures(rows) for name, rows in found["results"].items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm_eval and its libraries draw bars and print, some of it on standard output."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


def _figures(rows: dict[str, Any]) -> dict[str, float]:
    """`acc` and `acc_stderr` of `acc,none` and so on; a filter's name stays where it is one."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in rows.items()
        if isinstance(value, int | float) and "," in name
    }
