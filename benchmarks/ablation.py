"""What ablation costs in training: time and memory of a step with it, over those of a step without.

    python benchmarks/ablation.py --pairs 30 --out ablation.json

In: a model of SmolLM2-135M's shape with random weights, 8 layers x rank 20. Out: for each batch shape the median time
ratio with its bootstrap interval, and the ratio of peak memory. A step is a forward and a backward pass.

The decision a reader would question: the two steps of a pair run one after the other, in the order A B B A, and the
ratio is taken within the pair, so that a machine that is slower for a minute slows both. Memory is measured in a
process of its own for each side, because a process never gives its peak back.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from autocaft.model.directions import Subspace, orthonormal_basis
from autocaft.model.hooks import ablate

LAYERS, RANK = (4, 7, 10, 13, 16, 19, 22, 25), 20
SHAPES = ("16x32", "8x128")
TIME_TARGET, MEMORY_TARGET = 1.03, 1.02


def build_model(device: torch.device) -> LlamaForCausalLM:
    """SmolLM2-135M's shape; the cost of a step does not depend on the weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(device).train()


def subspaces(mode: str) -> list[Subspace]:
    """One of `RANK` dimensions at each of `LAYERS`."""
    generator = torch.Generator().manual_seed(0)
    bases = [orthonormal_basis(torch.randn(RANK, 576, generator=generator)) for _ in LAYERS]
    mean_D = None if mode == "zero" else torch.randn(576, generator=generator)
    return [Subspace(layer, basis_DK, mean_D) for layer, basis_DK in zip(LAYERS, bases, strict=True)]


def batch(shape: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Random ids; each row opens with the same token and a third of the rows are padded on the left."""
    n_rows, width = (int(part) for part in shape.split("x"))
    ids_BT = torch.randint(3, 49152, (n_rows, width), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[::3, : width // 4] = 0
    ids_BT[torch.arange(n_rows), mask_BT.argmax(dim=1)] = 1
    return {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)}


def make_step(shape: str, precision: str, device: torch.device) -> tuple[LlamaForCausalLM, Callable[[], None]]:
    """A model, and a function that runs one forward and backward pass of it."""
    model, inputs = build_model(device), batch(shape, device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            # The head runs on the last places only, as in this package's training.
            logits_BTV = model(**inputs, use_cache=False, logits_to_keep=4).logits
        logits_BTV.float().log_softmax(-1)[..., 0].mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return model, step


def timed(step: Callable[[], None], context: AbstractContextManager[None]) -> float:
    """Seconds of one step; opening and closing the context is part of it."""
    start = time.perf_counter()
    with context:
        step()
    return time.perf_counter() - start


def time_ratios(shape: str, mode: Any, precision: str, n_pairs: int, device: torch.device) -> list[tuple[float, float]]:
    """Seconds (without, with) of each pair."""
    model, step = make_step(shape, precision, device)
    spaces = subspaces(mode)
    pairs = []
    for pair in range(-3, n_pairs):  # three pairs to warm up
        orders = (False, True) if pair % 2 == 0 else (True, False)
        seconds = {on: timed(step, ablate(model, spaces, mode=mode) if on else nullcontext()) for on in orders}
        if pair >= 0:
            pairs.append((seconds[False], seconds[True]))
    return pairs


def median_interval(values: list[float], n: int = 5000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(n))
    return medians[int(0.025 * n)], medians[int(0.975 * n)]


def peak_bytes(shape: str, mode: Any, precision: str, ablated: bool, device: torch.device) -> int:
    """Peak memory of this process (CPU) or of the allocator (GPU) over four steps."""
    model, step = make_step(shape, precision, device)
    with ablate(model, subspaces(mode), mode=mode) if ablated else nullcontext():
        for _ in range(4):
            step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_ratio(shape: str, args: argparse.Namespace) -> dict[str, float]:
    """Peak with and without, each in child processes of their own; the median of `--memory-repeats`."""
    peaks: dict[str, list[int]] = {"without": [], "with": []}
    for _ in range(args.memory_repeats):
        for side in peaks:
            command = [sys.executable, __file__, "--child", side, "--shapes", shape, "--mode", args.mode,
                       "--precision", args.precision, "--threads", str(args.threads)]  # fmt: skip
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[side].append(int(done.stdout.strip().splitlines()[-1]))
    without, with_ = (statistics.median(peaks[side]) for side in ("without", "with"))
    return {"without_mb": without / 1e6, "with_mb": with_ / 1e6, "ratio": with_ / without}


def measure(shape: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time and memory for one batch shape."""
    memory = memory_ratio(shape, args)  # first: no model is in this process yet
    pairs = time_ratios(shape, args.mode, args.precision, args.pairs, device)
    ratios = [with_ / without for without, with_ in pairs]
    low, high = median_interval(ratios)
    return {
        "shape": shape,
        "seconds_without": statistics.median(without for without, _ in pairs),
        "time_ratio": statistics.median(ratios),
        "time_ratio_low": low,
        "time_ratio_high": high,
        "n_pairs": len(pairs),
        "memory": memory,
        "is_on_target": high <= TIME_TARGET and memory["ratio"] <= MEMORY_TARGET,
    }


def main() -> int:
    """Print one line a shape; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="rows x tokens")
    parser.add_argument("--mode", choices=["mean", "zero"], default="mean")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory-repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=["with", "without"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.child:
        sys.stdout.write(f"{peak_bytes(args.shapes[0], args.mode, args.precision, args.child == 'with', device)}\n")
        return 0
    found = []
    for shape in args.shapes:
        result = measure(shape, args, device)
        found.append(result)
        sys.stdout.write(
            f"{shape}: time x{result['time_ratio']:.4f} [{result['time_ratio_low']:.4f}, "
            f"{result['time_ratio_high']:.4f}] of {result['seconds_without']:.3f} s, {result['n_pairs']} pairs; memory "
            f"x{result['memory']['ratio']:.4f} of {result['memory']['without_mb']:.0f} MB; "
            f"{'on target' if result['is_on_target'] else 'TARGET MISSED'}\n"
        )
        sys.stdout.flush()
    about = {"device": device.type, "threads": args.threads, "precision": args.precision, "mode": args.mode,
             "layers": LAYERS, "rank": RANK, "load": os.getloadavg(), "torch": torch.__version__}  # fmt: skip
    sys.stdout.write(f"{about}\n")
    if args.out:
        args.out.write_text(json.dumps({"about": about, "results": found}, indent=2) + "\n")
    return 0 if all(result["is_on_target"] for result in found) else 1


if __name__ == "__main__":
    sys.exit(main())
