"""What tells one kind of mixture of experts from another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engine.architectures.fields import Fields, count, flag
from engine.errors import SourceError

Norms = Literal["none", "head", "all"]
"""Which numbers of a query or key are normed together: none, a head's, or those of all heads."""


@dataclass(frozen=True)
class Traits:
    """What a model has that Mixtral has not, or does otherwise; the defaults are Mixtral's.

    ``norms``: queries and keys pass an RMS norm; ``qkv_bias``: their projections and the values'
    have biases; ``clip``: queries, keys and values are kept within this bound; ``renormalised``:
    the weights of the chosen experts are made to sum to 1; ``shared_size``: inner width of an
    expert that every token passes, 0 for none.
    """

    norms: Norms = "none"
    qkv_bias: bool = False
    clip: float | None = None
    renormalised: bool = True
    shared_size: int = 0


AS_MIXTRAL = Traits()


@dataclass(frozen=True)
class Architecture:
    """How one kind of model is described and stored.

    ``name`` is its class in transformers, ``model_type`` what `config.json` calls it. Of a layer's
    tensors on disk ``block`` holds router and experts, whose gate, up and down are called
    ``matrices``. ``expert_counts`` and ``inner_size`` are the keys of the number of experts, the
    older first, and of their width. ``traits`` and ``window`` read the rest, and raise SourceError
    for what cannot be run; ``norm_eps`` is the default of `rms_norm_eps`.
    """

    name: str
    model_type: str
    block: str
    matrices: tuple[str, str, str]
    expert_counts: tuple[str, ...]
    inner_size: str
    traits: Callable[[Fields], Traits]
    window: Callable[[Fields], int | None]
    norm_eps: float


def all_sparse(fields: Fields) -> None:
    """Raise SourceError where some layers have no experts."""
    dense, step = fields.get("mlp_only_layers"), fields.get("decoder_sparse_step", 1)
    if dense or step != 1:
        raise SourceError(
            "config.json has layers without experts (mlp_only_layers, decoder_sparse_step), which "
            "are not supported: every layer must have experts"
        )


def own_window(fields: Fields) -> int | None:
    """The sliding window of a model that names it, in tokens."""
    return None if fields.get("sliding_window") is None else count(fields, "sliding_window")


def switched_window(fields: Fields) -> int | None:
    """The same where `use_sliding_window` has the last word."""
    return own_window(fields) if flag(fields, "use_sliding_window", False) else None


def no_window(fields: Fields) -> None:
    """That of a model whose kind has none."""
