"""The shape of a Mixtral model, read from the `config.json` that transformers also reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import SourceError
from engine.json_file import read_json

ARCHITECTURE = "MixtralForCausalLM"

_MOST = 2**31 - 1


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one model. Counts unless said otherwise.

    ``sliding_window`` is in tokens, None for full attention; ``max_context`` is the longest
    sequence the model was trained for, in tokens.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    top_k: int
    rope_theta: float
    rms_norm_eps: float
    max_context: int
    sliding_window: int | None = None
    tie_embeddings: bool = False
    eos_ids: tuple[int, ...] = ()

    @property
    def expert_weights(self) -> int:
        """Weights of one expert: gate, up and down."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's q, k, v and o projections."""
        return 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)

    @property
    def total_weights(self) -> int:
        """All weights of the model, norms and embeddings included."""
        per_layer = (
            self.num_experts * self.expert_weights
            + self.attention_weights
            + self.num_experts * self.hidden_size  # router
            + 2 * self.hidden_size  # norms
        )
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_layers * per_layer + embeddings + self.hidden_size

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelConfig":
        """Read transformers' configuration keys.

        Raises SourceError for another architecture, a missing key, a value that no model has, or a
        scaled RoPE.
        """
        architectures = raw.get("architectures") or []
        if not isinstance(architectures, list):
            raise _wrong("architectures", architectures, "a list of names")
        if ARCHITECTURE not in architectures and raw.get("model_type") != "mixtral":
            named = ", ".join(map(str, architectures)) or raw.get("model_type") or "unnamed"
            raise SourceError(
                f"the architecture {named} is not supported; mc-chat compresses {ARCHITECTURE}"
            )
        try:
            return cls._from_mixtral(raw)
        except KeyError as missing:
            raise SourceError(f"config.json has no {missing}: it is not a whole Mixtral") from None

    @classmethod
    def _from_mixtral(cls, raw: dict[str, Any]) -> "ModelConfig":
        heads = _count(raw, "num_attention_heads")
        kv_heads = _count(raw, "num_key_value_heads") if raw.get("num_key_value_heads") else heads
        hidden = _count(raw, "hidden_size")
        head_dim = _count(raw, "head_dim") if raw.get("head_dim") else hidden // heads
        experts, top_k = _count(raw, "num_local_experts"), _count(raw, "num_experts_per_tok")
        if heads % kv_heads:
            raise SourceError(
                f"config.json is of no Mixtral: {heads} heads do not divide by {kv_heads}"
            )
        if head_dim < 1 or head_dim % 2:
            raise SourceError(
                f"config.json is of no Mixtral: head_dim is {head_dim}, not an even number"
            )
        if top_k > experts:
            raise SourceError(
                f"config.json is of no Mixtral: it selects {top_k} experts of {experts}"
            )
        window, tie = raw.get("sliding_window"), raw.get("tie_word_embeddings", False)
        if not isinstance(tie, bool):
            raise _wrong("tie_word_embeddings", tie, "true or false")
        return cls(
            vocab_size=_count(raw, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_count(raw, "intermediate_size"),
            num_layers=_count(raw, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            num_experts=experts,
            top_k=top_k,
            rope_theta=_rope_theta(raw),
            rms_norm_eps=_positive(raw.get("rms_norm_eps", 1e-5), "rms_norm_eps"),
            max_context=_count(raw, "max_position_embeddings"),
            sliding_window=None if window is None else _count(raw, "sliding_window"),
            tie_embeddings=tie,
            eos_ids=_eos_ids(raw.get("eos_token_id")),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Read ``folder/config.json``. Raises SourceError when it is missing or not JSON."""
        path = folder / "config.json"
        try:
            raw = read_json(path)
        except FileNotFoundError:
            raise SourceError(f"{folder} has no config.json: it is not a model folder") from None
        except (ValueError, OSError) as error:
            raise SourceError(f"{path} cannot be read: {error}") from None
        if not isinstance(raw, dict):
            raise SourceError(f"{path} is not a JSON object")
        return cls.from_dict(raw)


def _rope_theta(raw: dict[str, Any]) -> float:
    """Older files say `rope_theta`; transformers 5 nests it in `rope_parameters`."""
    nested = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(nested, dict):
        raise _wrong("rope_parameters", nested, "an object")
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind != "default":
        raise SourceError(f"RoPE scaling of type {kind!r} is not supported, only the default")
    return _positive(nested.get("rope_theta", raw.get("rope_theta", 10_000.0)), "rope_theta")


def _count(raw: dict[str, Any], key: str) -> int:
    """A whole number of at least 1."""
    value = raw[key]
    if type(value) is not int or not 1 <= value <= _MOST:
        raise _wrong(key, value, "a whole number of at least 1")
    return value


def _positive(value: object, key: str) -> float:
    if type(value) not in (int, float) or not 0 < value <= _MOST:  # type: ignore[operator]
        raise _wrong(key, value, "a number above 0")
    return float(value)  # type: ignore[arg-type]


def _eos_ids(value: object) -> tuple[int, ...]:
    """None, one token or several."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(id) is int and 0 <= id <= _MOST for id in ids):
        raise _wrong("eos_token_id", value, "a token id, or several")
    return tuple(ids)


def _wrong(key: str, value: object, expected: str) -> SourceError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    return SourceError(f"config.json is of no Mixtral: {key} is {shown}, not {expected}")


MIXTRAL_8X7B = ModelConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=14_336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    num_experts=8,
    top_k=2,
    rope_theta=1e6,
    rms_norm_eps=1e-5,
    max_context=32_768,
    eos_ids=(2,),
)
"""mistralai/Mixtral-8x7B-Instruct-v0.1, built in so that planning needs no network."""
