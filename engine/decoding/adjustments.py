"""What a model does to a token's queries, keys and values behind their products, for its step."""

from dataclasses import dataclass

from torch import Tensor

from engine.architectures.architecture import Norms
from engine.attention import Attention
from engine.linear import AdjustedLinear, Linear


@dataclass(frozen=True)
class Adjustments:
    """In this order, and as far as there: ``biases`` of q [N * D], k and v [KV * D]; RMS norms of
    q and k, of each head or of all heads at once as ``norms`` says, with the weights ``gains``, [D]
    each, or [N * D] and [KV * D]; a bound on the size of all three, ``clip``."""

    biases: tuple[Tensor, Tensor, Tensor] | None = None
    norms: Norms = "none"
    gains: tuple[Tensor, Tensor] | None = None
    eps: float = 0.0
    clip: float | None = None

    @classmethod
    def of(cls, attention: Attention) -> "Adjustments":
        """Those of a layer's attention."""
        q, k, v = map(_adjusted, (attention.q, attention.k, attention.v))
        biases = gains = None
        norms: Norms = "none"
        if q.bias is not None and k.bias is not None and v.bias is not None:
            biases = q.bias, k.bias, v.bias
        if q.norm is not None and k.norm is not None:
            gains = q.norm, k.norm
            norms = "head" if len(q.norm) == attention.head_dim else "all"
        return cls(biases, norms, gains, q.eps, q.clip)


def _adjusted(linear: Linear) -> AdjustedLinear:
    return linear if isinstance(linear, AdjustedLinear) else AdjustedLinear(linear)
