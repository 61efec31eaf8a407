"""The benchmarks of speed: both ways find the same components, and a missed bar is a status of 1."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from autocaft.discover.pair import ModelPair
from tests.scripts import load_benchmark


@pytest.fixture(scope="module")
def collect() -> ModuleType:
    return load_benchmark("collect")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return load_benchmark("generate")


def _model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=8192, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_the_naive_way_finds_the_components_that_ours_finds(collect: ModuleType) -> None:
    """Not only faster and smaller: the same. Tuned writes one direction into one layer far more loudly, and all others
    a little: with one alone there is only one component."""
    base, tuned = _model(0), _model(0)
    with torch.no_grad():
        loud_D = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
        tuned.model.layers[1].mlp.down_proj.weight += torch.outer(loud_D, torch.randn(64)) + 0.01 * torch.randn(32, 64)
    pair, rows = ModelPair.of(base, tuned), collect.rows_of_tokens(1500, 32)
    own, naive = (way(pair, rows, [1, 2]) for way in (collect.own_components, collect.naive_components))
    for layer in (1, 2):
        assert own[layer].shape == naive[layer].shape == (20, 32)
        assert abs(float(own[layer][0] @ naive[layer][0])) > 0.999, layer
    assert abs(float(own[1][0] @ loud_D)) > 0.99


def test_memory_is_held_to_the_naive_way_s_and_to_its_own_at_fewer_tokens(collect: ModuleType) -> None:
    memory = {"tensors": {"10": 50.0, "100": 52.0}, "naive": {"100": 1300.0}}
    figures = collect.memory_figures(memory, [100, 10])
    assert figures == {"memory, naive way over ours": 25.0, "memory, most tokens over fewest": 1.04}
    assert collect.missed(figures, collect.BARS) == []
    grown = collect.memory_figures({**memory, "tensors": {"10": 50.0, "100": 100.0}}, [10, 100])
    assert [fault.partition(":")[0] for fault in collect.missed(grown, collect.BARS)] == list(grown)


def test_own_batches_are_held_to_batch_1_and_to_the_best_of_the_sweep(generate: ModuleType) -> None:
    seconds = {1: [0.4, 0.5, 0.6], generate.OWN: [0.1, 0.1, 0.1], 128: [0.099, 0.096, 0.2]}
    figures = generate.ratios(seconds)
    assert figures == {"of batch 1": pytest.approx(5.0), "of the best size": pytest.approx(0.99)}
    assert generate.missed(figures, generate.BARS) == []
    slow = generate.ratios({1: [0.1], generate.OWN: [0.1], 128: [0.05]})
    assert len(generate.missed(slow, generate.BARS)) == 2


def test_every_batch_size_writes_as_many_tokens(generate: ModuleType) -> None:
    prompts = [[5] * n for n in (9, 7, 4, 2)]
    for size in (1, 3, 4):
        assert generate.one_pass(_model(0), prompts, size, 3) > 0
