"""A loaded model, ready to answer: what the worker and the `run` command share."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from engine import budget as budgets
from engine import devices, kernels
from engine.chat import continues, count_tokens, prompt_ids
from engine.checkpoint import LoadListener, load_model
from engine.config import ModelConfig
from engine.decoding.request import Request
from engine.errors import DoesNotFitError, UsageError
from engine.generation import Generator, Reply
from engine.integrity import ensure_verified
from engine.manifest import Manifest, is_compressed, open_manifest
from engine.otp import NO_OTP, OtpPruning
from engine.protocol import (
    ODP_OR_NOT,
    Device,
    Finished,
    Loaded,
    Memory,
    Message,
    Meters,
    PruningMode,
)
from engine.protocol import Generate as Question
from engine.pruning import NO_PRUNING, OdpPruning, Pruning
from engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Checkpoint:
    """What a folder says of itself before its weights are read; no manifest: an original.
    ``kv_bits`` is how it will be run."""

    folder: Path
    config: ModelConfig
    manifest: Manifest | None
    kv_bits: budgets.KvBits

    @classmethod
    def open(cls, folder: Path, kv_bits: budgets.KvBits) -> "_Checkpoint":
        manifest = open_manifest(folder) if is_compressed(folder) else None
        return cls(folder, ModelConfig.from_folder(folder), manifest, kv_bits)

    @property
    def nominal_bits(self) -> float | None:
        return None if self.manifest is None else self.manifest.nominal_bits

    @property
    def name(self) -> str:
        return self.folder.name if self.manifest is None else self.manifest.name

    def budget(self, context: int, kind: budgets.DeviceKind) -> budgets.Budget:
        if self.manifest is None:
            return budgets.original_budget(self.config, context, kind, self.kv_bits)
        widths = [layer.expert_bits for layer in self.manifest.layers]
        recipe = self.manifest.recipe
        return budgets.compressed_budget(
            self.config,
            widths,
            recipe.group_size,
            context,
            kind,
            recipe.rest,
            self.kv_bits,
            recipe.rotated,
        )

    def advice(self, context: int, kind: budgets.DeviceKind, free_bytes: int) -> str:
        """What to do when this does not fit: the next smaller choice that does."""
        recipe = self.manifest.recipe if self.manifest else None
        group_size = recipe.group_size if recipe else budgets.GROUP_SIZE
        rotated = recipe is not None and recipe.rotated
        below = self.nominal_bits or math.inf
        bits = budgets.largest_that_fits(
            self.config, group_size, context, kind, free_bytes, below, self.kv_bits, rotated
        )
        shorter = budgets.longest_context(
            self.config, lambda tokens: self.budget(tokens, kind), free_bytes
        )
        ways = [] if bits is None else [f"the next smaller choice, {bits} bits, fits"]
        if shorter is not None and shorter < context:
            ways.append(f"a context of {shorter} tokens would fit")
        return "; or ".join(ways) or "close other programs or use another device"


class Session:
    """One model, one conversation at a time."""

    def __init__(
        self, checkpoint: _Checkpoint, device: Device, generator: Generator, workspace: int
    ) -> None:
        """Use `Session.load`. ``workspace`` is what was reserved for activations, in bytes."""
        self._checkpoint = checkpoint
        self._device = device
        self.generator = generator
        self._workspace = workspace
        self._weights = generator.model.memory_bytes()
        manifest = checkpoint.manifest
        self._odp: OdpPruning | None = None
        self._otp: OtpPruning | None = None
        if manifest is not None:
            folder, config = checkpoint.folder, checkpoint.config
            self._odp = OdpPruning.from_records(manifest.layers)
            self._otp = OtpPruning.load(folder, manifest, config, generator.model.embed.device)

    @classmethod
    def load(
        cls,
        folder: Path,
        device_name: str,
        context: int | None,
        listener: LoadListener,
        force: bool = False,
        kv_bits: budgets.KvBits = 16,
    ) -> "Session":
        """Check, verify and load the checkpoint in ``folder``; ``listener`` hears how far it is.

        ``force``: try it even where it does not fit by the count. ``kv_bits``: of an element of
        the KV cache, 16 for the type of the activations. Raises CheckpointError or SourceError for
        a bad folder, UsageError for an impossible device or context, DoesNotFitError, before
        anything is allocated where that can be told.
        """
        checkpoint = _Checkpoint.open(folder, kv_bits)
        device = devices.choose(device_name)
        tokens = budgets.choose_context(checkpoint.config, context)
        need = checkpoint.budget(tokens, device.kind)

        def advice() -> str:
            return checkpoint.advice(tokens, device.kind, device.free_bytes)

        if not force:
            devices.check_fits(device, need.total, advice)
        tokenizer = Tokenizer.from_folder(folder)
        if checkpoint.manifest is not None:
            ensure_verified(
                folder, checkpoint.manifest, lambda name: listener(0.0, f"verifying {name}")
            )
        with _memory_errors(device, advice):
            model = load_model(folder, device.id, listener)
            generator = Generator(model, tokenizer, tokens, kv_bits)
            return cls(checkpoint, device, generator, need.workspace)

    def loaded(self) -> Loaded:
        """The facts of the model for the screen."""
        manifest, total = self._checkpoint.manifest, self._checkpoint.config.total_weights
        held_bits = 8 * self._weights / total
        return Loaded(
            name=self._checkpoint.name,
            device=self._device.id,
            context=self.generator.cache.capacity,
            total_params=total,
            nominal_bits=self._checkpoint.nominal_bits,
            bits_per_weight=manifest.sizes.bits_per_weight if manifest else held_bits,
            memory=self.memory(),
            kernels=f"{kernels.describe(torch.device(self._device.id))}; {self.generator.decoding}",
            prunings=ODP_OR_NOT if self._otp is None else get_args(PruningMode),
        )

    def memory(self) -> Memory:
        """What is held, and what the device has left now."""
        now = devices.refresh(self._device)
        # Pages of files count as free, since the system could drop them and read them again.
        is_mapped = self._device.kind == "cpu" and self._checkpoint.manifest is not None
        return Memory(
            weights=self._weights,
            kv_cache=self.generator.cache.memory_bytes(),
            workspace=self._workspace,
            free=max(0, now.free_bytes - self._weights) if is_mapped else now.free_bytes,
            total=now.total_bytes,
        )

    def start(
        self,
        question: Question,
        pruning: Callable[[], PruningMode],
        cancelled: Callable[[], bool],
        strength: Callable[[], float] = lambda: 1.0,
    ) -> Reply:
        """Begin to answer; iterate over the reply for its text.

        ``pruning``, its ``strength`` and ``cancelled`` are asked before every forward pass. Raises
        ContextFullError and UsageError.
        """
        if question.fresh:
            self.generator.forget()
        return self.generator.start(
            Request(
                prompt=self.prompt(question.messages),
                sampling=question.sampling,
                max_tokens=question.max_tokens,
                stop=question.stop,
                continues=continues(question.messages),
                pruning=lambda: self.pruning(pruning(), strength()),
                cancelled=cancelled,
            )
        )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The token ids that ask for the next reply, or for the rest of the last."""
        return prompt_ids(self.generator.tokenizer, messages)

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the context that messages take before the next is added."""
        return count_tokens(self.generator.tokenizer, messages)

    def run(self, reply: Reply) -> Iterator[str]:
        """The text of a reply, piece by piece. Raises DoesNotFitError when memory runs out."""
        with _memory_errors(self._device, self._advice):
            yield from reply

    def pruning(self, mode: PruningMode, strength: float = 1.0) -> Pruning:
        """What a mode means for this model; ODP's thresholds, and likewise OTP's price, are scaled
        by ``strength``.

        An original has none, and prunes nothing. Raises UsageError for an impossible strength, and
        for OTP where none was learned.
        """
        if mode == "off" or self._odp is None:
            return NO_PRUNING
        known = self._odp if mode == "odp" else self._otp
        if known is None:
            raise UsageError(NO_OTP)
        return known if strength == 1.0 else known.scaled(strength)

    def meters(self, reply: Reply) -> Meters:
        """The gauges of a reply, running or ended."""
        return reply.meter.read(reply.context_used, self.generator.cache.capacity, self.memory())

    def finished(self, id: int, text: str, reply: Reply) -> Finished:
        """The last word on a reply that has ended."""
        assert reply.finish_reason is not None
        return Finished(
            id=id,
            text=text,
            tokens=reply.tokens,
            prompt_tokens=reply.prompt_tokens,
            tokens_per_second=reply.meter.tokens_per_second,
            finish_reason=reply.finish_reason,
            meters=self.meters(reply),
        )

    def _advice(self) -> str:
        """What would fit if this model were not there."""
        now = self.memory()
        free = now.free + now.weights + now.kv_cache
        return self._checkpoint.advice(self.generator.cache.capacity, self._device.kind, free)


@contextmanager
def _memory_errors(device: Device, advice: Callable[[], str]) -> Iterator[None]:
    """Say in one line what to do when the device's memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise DoesNotFitError(f"{device.name} ran out of memory; {advice()}") from None


def _is_out_of_memory(error: Exception) -> bool:
    """torch has a class of its own for a GPU's memory, but only a text for a CPU's."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "DefaultCPUAllocator" in str(error)
