"""Fixtures for every room: tiny models of random weights in five families, and a tokenizer made on the spot."""

from __future__ import annotations

import gc
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most slow tests first: one that starts last would leave the other worker without work."""
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])


def pytest_collection_finish() -> None:
    """Leave out of every later garbage collection what modules hold: half a second each, some twenty times a run."""
    gc.collect()
    gc.freeze()


N_LAYERS, D_MODEL, VOCAB = 3, 32, 96
FAMILIES = ("llama", "qwen2", "gemma3", "gpt2", "gpt_neox")
CHAT_TEMPLATE = (
    "{% for m in messages %}<turn>{{ m['role'] }} {{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant{% endif %}"
)
WORD_LIST = """
    The A doctor nurse pilot cook teacher driver said that he she him her it came went saw red green blue one two three
    user assistant system up down left right yes no maybe cat dog bird is was on off in out . , ? :
"""

MakeModel = Callable[..., PreTrainedModel]
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def build_model(family: str, *, seed: int = 0, vocab: int = VOCAB) -> PreTrainedModel:
    """A model of the family with random weights, fp32, in evaluation mode."""
    torch.manual_seed(seed)
    size = {
        "vocab_size": vocab,
        "hidden_size": D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_implementation": "eager",
        "initializer_range": 0.2,
    }
    grouped = {**size, "num_key_value_heads": 1}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**grouped)).eval()
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**grouped)).eval()
    if family == "gemma3":
        config = Gemma3TextConfig(**grouped, head_dim=16, sliding_window=8, query_pre_attn_scalar=16)
        return Gemma3ForCausalLM(config).eval()
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=vocab, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=2, n_inner=48, n_positions=64, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, attn_implementation="eager", initializer_range=0.2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        return GPT2LMHeadModel(config).eval()
    assert family == "gpt_neox", family
    return GPTNeoXForCausalLM(GPTNeoXConfig(**size)).eval()


@pytest.fixture
def make_model() -> MakeModel:
    """`make_model("llama", seed=0)`: the same weights for the same seed."""
    return build_model


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


@pytest.fixture
def family_model(family: str) -> PreTrainedModel:
    """A tiny model of each family in turn."""
    return build_model(family)


def build_tokenizer(*, chat: bool = False, bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a word (with its leading space), `<pad> <bos> <eos> <unk> <turn>` first; 96 ids at most."""
    # Words as they open a text and as they follow a space: "\u0120he", as in GPT-2.
    specials = ["<pad>", "<bos>", "<eos>", "<unk>", "<turn>"]
    words = [*dict.fromkeys(WORD_LIST.split())]
    openers = ("The", "A", ".", ",", "?", "user", "assistant", "system", "he", "she")
    kept = [f"\u0120{word}" for word in words] + [word for word in words if word in openers]
    vocab = {token: number for number, token in enumerate([*specials, *kept])}
    assert len(vocab) <= VOCAB, len(vocab)
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<turn>"],
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


@pytest.fixture
def make_tokenizer() -> MakeTokenizer:
    """`make_tokenizer(chat=True, bos=True)`."""
    return build_tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Plain: no chat template, no BOS of its own."""
    return build_tokenizer()


@pytest.fixture
def make_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """`make_jsonl("rows.jsonl", row, "a raw line", ...)` writes a file of JSON lines."""
    import json

    def write(name: str, *rows: object) -> Path:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; on a user's machine without one the test is skipped, in CI it fails."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        assert not os.environ.get("CI"), "CI must have Chromium: .ci/run installs it"
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()
