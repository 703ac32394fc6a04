"""Fitting up's rows, against least squares in float64."""

import torch
import torch.nn.functional as F

from compress.correction import fit_up
from compress.quantizers import quantizer
from compress.quantizers.hessian import Hessian
from compress.routed import Expert, MoeBlock
from compress.streams import Stream
from engine.pruning import Routing
from tests.unit.test_significance import GROUP, HIDDEN, random_layer

TOKENS = 600


def test_each_row_of_up_gets_the_factor_of_least_squares() -> None:
    torch.manual_seed(0)
    layer = random_layer()
    stream = Stream(torch.randn(1, TOKENS, HIDDEN), torch.device("cpu"))
    ids = torch.zeros(TOKENS, 1, dtype=torch.int64)  # one expert sees them all
    block = MoeBlock(layer, stream, Routing(ids, torch.rand(TOKENS, 1) + 0.1))
    inner = 64
    expert = Expert(torch.randn(2 * inner, HIDDEN) / 4, torch.randn(HIDDEN, inner))
    hessian = Hessian(torch.eye(HIDDEN))
    before = quantizer("minmax")(expert.gate_up, hessian, (1, 2), GROUP)
    after = fit_up(block, 0, expert, before, chunk=250)
    x = layer.moe_input(stream.tensor).double()
    weights = block.routing.weights[:, 0].double()
    for codes, scaled in zip(before, after, strict=True):
        gate, up = codes.dequantize().double().chunk(2)
        exact_gate, exact_up = expert.gate_up.double().chunk(2)
        found = F.silu(x @ gate.T) * (x @ up.T)
        wanted = F.silu(x @ exact_gate.T) * (x @ exact_up.T)
        factors = (weights[:, None] * found * wanted).sum(0) / (
            weights[:, None] * found.square()
        ).sum(0)
        assert factors.min() < 0.9
        fitted = up * factors.clamp(0.5, 2)[:, None]
        new_gate, new_up = scaled.dequantize().double().chunk(2)
        assert torch.equal(new_gate, gate)
        torch.testing.assert_close(new_up, fitted, rtol=2e-3, atol=1e-6)  # scales are float16


def test_a_channel_that_is_never_active_keeps_its_row() -> None:
    torch.manual_seed(1)
    layer = random_layer()
    stream = Stream(torch.randn(1, TOKENS, HIDDEN), torch.device("cpu"))
    routing = Routing(torch.zeros(TOKENS, 1, dtype=torch.int64), torch.ones(TOKENS, 1))
    gate_up = torch.randn(128, HIDDEN)
    gate_up[64] = 0.0
    expert = Expert(gate_up, torch.randn(HIDDEN, 64))
    before = quantizer("rtn")(gate_up, Hessian(torch.eye(HIDDEN)), (2,), GROUP)
    (after,) = fit_up(MoeBlock(layer, stream, routing), 0, expert, before, chunk=TOKENS)
    assert torch.isfinite(after.dequantize()).all()
