"""Compiles for a GPU what the first prompt and the first token of a model will launch.

While the model's files are read, a stand-in of one layer, with its sizes and nothing but zeros, is
given prompts of every length that is multiplied in a way of its own, and a step. Kernels are tried
against each other later, with the model itself and nothing else under way.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.assembly import assemble
from engine.budget import PREFILL_CHUNK
from engine.config import ModelConfig
from engine.counters import Counters
from engine.decoding.context import Context
from engine.decoding.fused import TritonOperations
from engine.decoding.state import DecodeState
from engine.decoding.step import DecodeStep
from engine.experts import PackedExperts
from engine.kernels import Arena
from engine.kernels.triton.tuning import plan_book
from engine.layout import ArenaLayout, PackedShape, arena_layout
from engine.linear import FloatLinear, PackedLinear
from engine.model import Model, Norm
from engine.packing import PackedMatrix
from engine.pruning import NO_PRUNING, OdpPruning, Pruning
from engine.tensor_names import dense_shapes, small_tensors

WARMED_PROMPTS = (2, 5, 40, 200, PREFILL_CHUNK["cuda"])
"""Lengths in tokens that stand for all that there are: each is multiplied in a way of its own, by
itself or spread over experts, at the sizes of Mixtral."""

_CAPACITY = PREFILL_CHUNK["cuda"] + 16


@dataclass(frozen=True)
class Sizes:
    """What kernels are compiled for, of one model: ``dtype`` of the activations, the ``widest``
    expert of each layer in bits, whether the experts are ``rotated``."""

    config: ModelConfig
    dtype: torch.dtype
    widest: tuple[int, ...]
    group_size: int
    rotated: bool


def warm_prompts_and_steps(
    sizes: Sizes,
    device: torch.device,
    prompts: Iterable[int] = WARMED_PROMPTS,
) -> None:
    """Compile now, for a minute the first time, from a cache on disk later.

    ``prompts`` are lengths, in tokens.
    """
    prunings: list[Pruning] = [NO_PRUNING]
    if sizes.config.top_k > 1:
        ranks = ((0.5,) * (sizes.config.top_k - 2),) if sizes.config.top_k > 2 else ()
        prunings.append(OdpPruning((0.5,), (float("inf"),), ranks=ranks))
    for widest in sorted(set(sizes.widest)):
        model = _stand_in(sizes, widest, device)
        context = Context(model, _CAPACITY)
        for pruning in prunings:
            for tokens in prompts:
                context.forget()
                context.forward([0] * tokens, pruning, Counters(model))
        state = DecodeState.allocate(model)
        step = DecodeStep(model, context.cache, state, TritonOperations(model))
        with torch.inference_mode(), plan_book(device).compiling():
            step.run()


def _stand_in(sizes: Sizes, widest: int, device: torch.device) -> Model:
    """One layer of zeros, all experts ``widest`` bits wide."""
    config = replace(sizes.config, num_layers=1)

    def floats(*size: int) -> Tensor:
        return torch.zeros(size, dtype=sizes.dtype, device=device)

    def packed(shape: PackedShape) -> PackedLinear:
        buffers = _buffers(shape.code_words, shape.scales, shape.zeros, device)
        return PackedLinear(PackedMatrix(shape, *buffers))

    norm = Norm(floats(config.hidden_size), config.rms_norm_eps)
    embed = floats(config.vocab_size, config.hidden_size)
    small = small_tensors(config, 0)
    layer = assemble(
        config,
        0,
        {name: packed(shape) for name, shape in dense_shapes(config, sizes.group_size).items()},
        lambda name: floats(*small[name].shape),
        FloatLinear(floats(config.num_experts, config.hidden_size)),
        PackedExperts(_arena(sizes, widest, device)),
    )
    return Model(config, [layer], embed, norm, FloatLinear(embed), sizes.dtype)


def _arena(sizes: Sizes, widest: int, device: torch.device) -> Arena:
    """All experts of a layer in the memory of one."""
    hidden, inner = sizes.config.hidden_size, sizes.config.intermediate_size
    one = arena_layout((widest,), hidden, inner, sizes.group_size, sizes.rotated)
    layout = ArenaLayout(
        one.slots * sizes.config.num_experts, one.code_words, one.scales, one.zeros
    )
    return Arena(layout, *_buffers(one.code_words, one.scales, one.zeros, device))


def _buffers(
    codes: int, scales: int, zeros: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.zeros(codes, dtype=torch.int32, device=device),
        torch.zeros(scales, dtype=torch.float16, device=device),
        torch.zeros(zeros, dtype=torch.float16, device=device),
    )
