"""A Mixtral written for training on a CPU: same numbers as transformers', other bookkeeping.

Tokens are sorted by expert, so that every expert does one large product, and the experts of a layer
are kept in stacked tensors. Weights are float32; products run in bfloat16. `state_to_hf` names them
as Mixtral checkpoints do on disk.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DemoConfig:
    """The demo's shape, in Mixtral's terms."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    num_experts: int = 8
    top_k: int = 2
    rope_theta: float = 1e4
    rms_norm_eps: float = 1e-5
    max_length: int = 1024

    def to_hf(self) -> dict[str, Any]:
        """The config.json of the checkpoint."""
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "num_local_experts": self.num_experts,
            "num_experts_per_tok": self.top_k,
            "hidden_act": "silu",
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_length,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.02,
            "router_jitter_noise": 0.0,
            "use_cache": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
            "torch_dtype": "bfloat16",
        }


def _matrix(*shape: int) -> nn.Parameter:
    """A weight [..., out, in] that keeps the variance of its input."""
    return nn.Parameter(torch.randn(*shape) * shape[-1] ** -0.5)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = _matrix(query, config.hidden_size)
        self.k_proj = _matrix(key, config.hidden_size)
        self.v_proj = _matrix(key, config.hidden_size)
        self.o_proj = nn.Parameter(torch.zeros(config.hidden_size, query))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [batch, length, hidden] bfloat16; cos, sin: [length, head_dim]; returns like x."""
        batch, length, _ = x.shape
        config = self.config
        weight = torch.cat((self.q_proj, self.k_proj, self.v_proj)).to(x.dtype)
        heads = F.linear(x, weight).view(batch, length, -1, config.head_dim).transpose(1, 2)
        n_q, n_kv = config.num_heads, config.num_kv_heads
        q, k, v = torch.split(heads, [n_q, n_kv, n_kv], dim=1)
        repeat = n_q // n_kv
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, length, -1)
        return F.linear(mixed, self.o_proj.to(x.dtype))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Experts(nn.Module):
    """The router and the experts of one layer; `w1`, `w3`: [experts, width, hidden]."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        experts, width, hidden = config.num_experts, config.intermediate_size, config.hidden_size
        self.gate = nn.Parameter(torch.randn(experts, hidden) * 0.02)
        self.w1 = _matrix(experts, width, hidden)
        self.w3 = _matrix(experts, width, hidden)
        self.w2 = nn.Parameter(torch.zeros(experts, hidden, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: [tokens, hidden] bfloat16.

        Returns the output like x, the balancing loss of this layer (a scalar, 1 when even), and
        the number of slots each expert was given [experts].
        """
        config = self.config
        probabilities = F.linear(x.float(), self.gate).softmax(dim=-1)
        weights, chosen = probabilities.topk(config.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        slots = chosen.flatten()
        order = slots.argsort(stable=True)
        counts = slots.bincount(minlength=config.num_experts)
        rows = order // config.top_k
        share = counts / slots.numel()
        balance = config.num_experts * (share * probabilities.mean(dim=0)).sum()
        gate_up = torch.cat((self.w1, self.w3), dim=1).to(x.dtype)
        down = self.w2.to(x.dtype)
        outputs = []
        for expert, part in enumerate(torch.split(x[rows], counts.tolist())):
            gate, up = F.linear(part, gate_up[expert]).chunk(2, dim=-1)
            outputs.append(F.linear(F.silu(gate) * up, down[expert]))
        scaled = torch.cat(outputs) * weights.flatten()[order, None].to(x.dtype)
        return torch.zeros_like(x).index_add_(0, rows, scaled), balance, counts


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.input_layernorm = nn.Parameter(torch.ones(config.hidden_size))
        self.post_attention_layernorm = nn.Parameter(torch.ones(config.hidden_size))
        self.self_attn = Attention(config)
        self.block_sparse_moe = Experts(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: [batch, length, hidden]; returns the same, balancing loss and expert counts."""
        x = x + self.self_attn(_norm(x, self.input_layernorm, self.eps), cos, sin)
        normed = _norm(x, self.post_attention_layernorm, self.eps)
        out, balance, counts = self.block_sparse_moe(normed.flatten(0, 1))
        return x + out.view_as(x), balance, counts


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm of x [..., hidden], given and returned in bfloat16, computed in float32."""
    return F.rms_norm(x.float(), x.shape[-1:], weight, eps).to(torch.bfloat16)


class DemoModel(nn.Module):
    """The demo Mixtral for training."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        self.lm_head = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size) * 0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ids: [batch, length] int64.

        Returns logits [batch, length, vocab] bfloat16, the balancing loss summed over layers, and
        the slots given to each expert [layers, experts].
        """
        cos, sin = self._rope(ids.shape[1])
        x = F.embedding(ids, self.embed_tokens).to(torch.bfloat16)
        balances, counts = [], []
        for layer in self.layers:
            x, balance, count = layer(x, cos, sin)
            balances.append(balance)
            counts.append(count)
        x = _norm(x, self.norm, self.config.rms_norm_eps)
        logits = F.linear(x, self.lm_head.to(x.dtype))
        return logits, torch.stack(balances).sum(), torch.stack(counts)

    def _rope(self, length: int) -> tuple[Tensor, Tensor]:
        dim = self.config.head_dim
        frequencies = self.config.rope_theta ** (-torch.arange(0, dim, 2) / dim)
        angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
        return angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)


def state_to_hf(model: DemoModel) -> dict[str, Tensor]:
    """The weights under Mixtral's on-disk names, bfloat16."""
    state = {
        "model.embed_tokens.weight": model.embed_tokens,
        "model.norm.weight": model.norm,
        "lm_head.weight": model.lm_head,
    }
    for number, layer in enumerate(model.layers):
        prefix = f"model.layers.{number}"
        for name, parameter in layer.named_parameters():
            if name.startswith("block_sparse_moe.w"):
                short = name.rsplit(".", 1)[1]
                for expert, weight in enumerate(parameter):
                    state[f"{prefix}.block_sparse_moe.experts.{expert}.{short}.weight"] = weight
            else:
                state[f"{prefix}.{name}.weight"] = parameter
    return {
        name: weight.detach().to(torch.bfloat16).clone().contiguous()
        for name, weight in state.items()
    }
