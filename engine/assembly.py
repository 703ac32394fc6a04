"""Puts a layer together from its parts, whatever model it is of and wherever they come from."""

from collections.abc import Callable, Mapping

from torch import Tensor

from engine.attention import Attention
from engine.config import ModelConfig
from engine.experts import Experts, SharedExpert
from engine.linear import AdjustedLinear, Linear
from engine.model import Layer, Norm


def assemble(
    config: ModelConfig,
    index: int,
    dense: Mapping[str, Linear],
    small: Callable[[str], Tensor],
    router: Linear,
    experts: Experts,
) -> Layer:
    """Layer ``index`` around ``experts``.

    ``dense`` holds its other matrices and ``small`` gives what is in none, in the type that the
    layer computes in; both by the names of `engine.tensor_names`.
    """

    def norm(name: str) -> Norm:
        return Norm(small(f"{name}.weight"), config.rms_norm_eps)

    return Layer(
        index=index,
        input_norm=norm("input_norm"),
        attention=Attention(
            q=_projection(config, "q", dense, small),
            k=_projection(config, "k", dense, small),
            v=_projection(config, "v", dense, small),
            o=dense["attention.o"],
            head_dim=config.head_dim,
            window=config.sliding_window,
        ),
        post_norm=norm("post_norm"),
        router=router,
        experts=experts,
        top_k=config.top_k,
        renormalised=config.traits.renormalised,
        shared=_shared(config, dense, small),
    )


def _projection(
    config: ModelConfig, name: str, dense: Mapping[str, Linear], small: Callable[[str], Tensor]
) -> Linear:
    """Queries, keys or values, with what the model does to them."""
    traits, product = config.traits, dense[f"attention.{name}"]
    normed = traits.norms != "none" and name != "v"
    if not (normed or traits.qkv_bias or traits.clip):
        return product
    return AdjustedLinear(
        product,
        bias=small(f"attention.{name}.bias") if traits.qkv_bias else None,
        norm=small(f"attention.{name}.norm") if normed else None,
        eps=config.rms_norm_eps,
        clip=traits.clip,
    )


def _shared(
    config: ModelConfig, dense: Mapping[str, Linear], small: Callable[[str], Tensor]
) -> SharedExpert | None:
    if not config.traits.shared_size:
        return None
    gate, up, down = (dense[f"shared.{name}"] for name in ("gate", "up", "down"))
    return SharedExpert(gate, up, down, small("shared.share"))
