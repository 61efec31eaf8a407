"""How large a language model is, and what training and sampling it takes, from its config.json alone.

In: the fields of a config.json of the Llama family (Llama, Mistral, Qwen2: gated MLP, grouped attention). Out: counts,
bytes, operations. The decision a reader would question: these are sums over shapes and no measurements. Buffers of
kernels, fragmentation and the framework itself come on top: leave a tenth of a card free.

Key: P parameters; a token's forward pass is 2 P operations, its gradient with frozen weights another 2 P.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from autocaft.rundir.options import Options

BYTES_BY_DTYPE = {"float32": 4, "bfloat16": 2}
BYTES_BY_QUANTIZATION = {"nf4": (4 + 8 / 64 + 32 / (64 * 256)) / 8, "int8": 1.0}
"""Of a weight in a block's linear layers; NF4 with the scales of 64 weights in eight bits, and theirs."""


class ModelShape(Options):
    """Fields of a model's config.json, by their names there, so that `plan` needs no weights."""

    num_hidden_layers: int = Field(ge=1)
    """Decoder blocks."""
    hidden_size: int = Field(ge=1)
    """Width of the residual stream."""
    intermediate_size: int = Field(ge=1)
    """Width of the MLP."""
    num_attention_heads: int = Field(ge=1)
    """Query heads."""
    num_key_value_heads: int = Field(ge=1)
    """Key and value heads."""
    head_dim: int = Field(ge=1)
    """Width of a head."""
    vocab_size: int = Field(ge=1)
    """Tokens."""
    tie_word_embeddings: bool = False
    """Whether the head is the embedding."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the seven linear layers of a block."""
        d, q, kv = self.hidden_size, self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d)}
        f = self.intermediate_size
        return attention | {"gate_proj": (d, f), "up_proj": (d, f), "down_proj": (f, d)}

    @property
    def n_in_blocks(self) -> int:
        """Parameters of the blocks' linear layers."""
        return self.num_hidden_layers * sum(n_in * n_out for n_in, n_out in self.linears.values())

    @property
    def n_parameters(self) -> int:
        """Of the blocks, the embedding and the head; norms and biases, a ten-thousandth of them, are left out."""
        return self.n_in_blocks + (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size

    def n_adapter(self, r: int, targets: Sequence[str] = ("all-linear",)) -> int:
        """Parameters of LoRA of rank `r` on these linear layers of the blocks, or on all."""
        chosen = [size for name, size in self.linears.items() if name in targets or "all-linear" in targets]
        return self.num_hidden_layers * sum(r * (n_in + n_out) for n_in, n_out in chosen)

    @property
    def cache_bytes(self) -> int:
        """Of keys and values of one token, in bf16."""
        return 2 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def weight_bytes(self, dtype: str, quantization: str = "none") -> int:
        """Of the weights; quantized ones are those of the blocks."""
        rate = BYTES_BY_QUANTIZATION.get(quantization, BYTES_BY_DTYPE[dtype])
        return round(rate * self.n_in_blocks) + BYTES_BY_DTYPE[dtype] * (self.n_parameters - self.n_in_blocks)

    def state_bytes(self, dtype: str, n_adapter: int | None) -> int:
        """What training keeps besides the weights: an adapter in fp32, gradients, AdamW's two averages."""
        if n_adapter is not None:
            return (4 + 4 + 8) * n_adapter
        return 3 * self.weight_bytes(dtype)

    def activation_bytes(self, n_tokens: int, *, checkpointing: bool) -> int:
        """Kept for the backward pass of so many tokens, in bf16: with checkpointing one vector a block and token, and
        what one block makes."""
        inside = 2 * (4 * self.intermediate_size + 8 * self.hidden_size)
        between = 2 * self.num_hidden_layers * self.hidden_size
        return n_tokens * (between + inside if checkpointing else self.num_hidden_layers * inside)

    def logit_bytes(self, n_tokens: int) -> int:
        """Logits of the positions that bear a loss, in bf16 and fp32, and their gradient in fp32."""
        return (2 + 4 + 4) * self.vocab_size * n_tokens

    def training_bytes(
        self,
        *,
        dtype: str,
        n_adapter: int | None,
        n_rows: int,
        max_tokens: int,
        checkpointing: bool,
        quantization: str = "none",
        n_shards: int = 1,
    ) -> int:
        """At most, on each of `n_shards` cards that share weights and states, for one batch of `n_rows` rows of
        `max_tokens` tokens that all bear a loss. The one block of sharded weights that is whole is not counted."""
        n_tokens = n_rows * max_tokens
        held = self.weight_bytes(dtype, quantization) + self.state_bytes(dtype, n_adapter)
        own = self.logit_bytes(n_tokens) + self.activation_bytes(n_tokens, checkpointing=checkpointing)
        return -(-held // n_shards) + own

    def training_flops(self, *, lora: bool, checkpointing: bool) -> int:
        """Operations a token: forward, backward to the activations, and to the weights unless they are frozen;
        checkpointing makes the forward pass once more."""
        return 2 * self.n_parameters * (2 + (0 if lora else 1) + (1 if checkpointing else 0))

    @property
    def forward_flops(self) -> int:
        """Operations of a token's forward pass."""
        return 2 * self.n_parameters


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape in a config.json; None for families that have other fields."""
    text = config.get("text_config", config)
    found = {name: text[name] for name in ModelShape.model_fields if text.get(name) is not None}
    if "hidden_size" in found and "num_attention_heads" in found:
        found.setdefault("head_dim", found["hidden_size"] // found["num_attention_heads"])
        found.setdefault("num_key_value_heads", found["num_attention_heads"])
    required = {name for name, field in ModelShape.model_fields.items() if field.is_required()}
    return ModelShape(**found) if required <= set(found) else None
