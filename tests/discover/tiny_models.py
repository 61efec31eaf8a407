"""Tiny random models and random sentences, for the tests of this room."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

WIDTH = 32
WORDS = [
    "the",
    "a",
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "bird",
    "tree",
    "house",
    "runs",
    "sleeps",
    "sings",
    "eats",
    "sees",
    "in",
    "on",
    "near",
    "under",
    "far",
    "and",
    "but",
    "then",
    "one",
    "two",
    "three",
    "four",
    "five",
    "yes",
    "no",
    "he",
    "she",
    "him",
    "her",
    "doctor",
    "nurse",
    "teacher",
    "farmer",
    "said",
    "asked",
    "gave",
    "took",
    "old",
    "new",
    "big",
]


def tiny_llama(seed: int = 0, n_layers: int = 3) -> LlamaForCausalLM:
    """A random Llama of width 32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def sentence(generator: torch.Generator, n_words: int) -> str:
    """Random words."""
    return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (n_words,), generator=generator).tolist())
