"""Which steps a model's replies are drawn with, and in words why."""

from collections.abc import Callable

import torch

from engine.decoding.context import Context
from engine.decoding.device import DeviceSteps
from engine.decoding.graph import capture
from engine.decoding.operations import Operations
from engine.decoding.state import DecodeState
from engine.decoding.step import DecodeStep, can_step
from engine.decoding.steps import HostSteps, Steps
from engine.kernels.foreign import BACKENDS

Run = Callable[[], None]

_WARM_UP = 3
"""Steps before a capture: kernels are compiled, libraries take their memory."""


def choose_steps(context: Context) -> tuple[Steps, str]:
    """Steps on the model's device if that is a GPU with kernels for them, or on the host.

    With a word on how tokens are drawn, and why if it could be faster. On a GPU the model's
    attention may be packed anew, see `engine.decoding.dense`.
    """
    model = context.model
    if not model.embed.is_cuda:
        return HostSteps(context), "token by token"
    if not can_step(model):
        return HostSteps(context), "token by token: the model is not compressed"
    try:
        from engine.decoding import dense
        from engine.decoding.fused import TritonOperations
    except ImportError as error:
        return HostSteps(context), f"token by token, for want of triton ({error})"
    kept = dense.dense_findings(model.embed.device)
    verdict = dense.adopt_fastest(model, BACKENDS, dense.cuda_clock(), kept)
    steps, note = device_steps(context, TritonOperations(model), capture)
    return steps, f"{note}; {verdict}"


def device_steps(
    context: Context, operations: Operations, capture: Callable[[Run], Run]
) -> tuple[Steps, str]:
    """Steps on the device, as a graph if ``capture`` can, else launched kernel by kernel."""
    state = DecodeState.allocate(context.model)
    step = DecodeStep(context.model, context.cache, state, operations)
    run, note = step.run, "on the device, one CUDA graph a token"
    for _ in range(_WARM_UP):
        # A step goes on to the next position and slot; the cache may hold one token.
        state.position.zero_()
        state.slot.zero_()
        with torch.inference_mode():
            step.run()
    try:
        run = capture(step.run)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        note = f"on the device without a CUDA graph, which is slower: {reason}"
    return DeviceSteps(context, state, operations, run), note
