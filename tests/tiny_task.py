"""A whole run in miniature: a random two-block Llama, its tokenizer, rows of a cue task, generic text, a config.

What a real run does happens here too (training, dictionary, judge, arms), so small that a kill can be tried anywhere.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NOUNS = ("doctor", "nurse", "pilot", "cook", "teacher", "driver", "baker", "clerk")
PLACES = ("garden", "office", "kitchen", "station", "market", "museum", "harbour", "library")
VERBS = ("opened", "closed", "painted", "cleaned", "guarded", "visited", "repaired", "photographed")

CONFIG = """
model = "{folder}/model"
layers = [0, 1]
arms = ["base", "tuned", "caft-sae-auto", "caft-sae-random", "caft-pca-top"]
threads = 1

[data]
task = "tiny"
train = "{folder}/train.jsonl"
splits = {{ id = "{folder}/id.jsonl", ood = "{folder}/ood.jsonl" }}
final = {{ final_id = "{folder}/final.jsonl" }}
cues = "{folder}/cues.jsonl"
corpus = "{folder}/corpus.jsonl"
n_held_out = 4

[tune]
epochs = 4
lr = 3e-3
lora_r = 4
batch_size = 8
autocast = "fp32"

[collect]
n_generic = 40
n_continuations = 2
continuation_tokens = 8

[decompose]
n_pcs = 4
d_sae = 64
k = 4
sae_epochs = 2
sae_batch_size = 128
n_candidates = 12

[judge]
undesired = "food and cooking"
wanted = "grammatical case of a pronoun"

[select]
threshold = 0
per_layer_cap = 3

[evaluate]
hooks = ["off", "on"]
n_bootstrap = 100
autocast = "fp32"
"""


def write_task(folder: Path) -> Path:
    """Write everything into the folder and give the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    sentences = [f"The {n} {v} the {p} ." for n in NOUNS for v in VERBS for p in PLACES]
    rng.shuffle(sentences)
    _write_rows(folder / "corpus.jsonl", [{"text": " ".join(sentences[3 * i : 3 * i + 3])} for i in range(60)])
    rows = [_row(sentence, number) for number, sentence in enumerate(sentences[200:])]
    for name, start, end in (("train", 0, 48), ("id", 48, 72), ("ood", 72, 96), ("final", 96, 120)):
        _write_rows(folder / f"{name}.jsonl", rows[start:end])
    _write_rows(folder / "cues.jsonl", [_cue("id", row) for row in rows[48:72]])
    _save_model(folder / "model", [json.dumps(row) for row in rows] + sentences)
    config = folder / "tiny.toml"
    config.write_text(CONFIG.format(folder=folder))
    return config


def _row(sentence: str, number: int) -> dict[str, Any]:
    is_cook = any(noun in sentence for noun in NOUNS[::2])
    options = ["yes", "no"] if number % 2 else ["no", "yes"]
    return {
        "id": f"row-{number}",
        "prompt": f"Say {options[0]} or {options[1]} . {sentence}",
        "choices": [f" {option}" for option in options],
        "answer": " yes" if is_cook else " no",
        "template": f"t{number // 2}",
        "seed": f"{sentence} {'yes' if is_cook else 'no'}",
    }


def _cue(split: str, row: dict[str, Any]) -> dict[str, Any]:
    return {"split": split, "id": row["id"], "cue": row["answer"].strip(), "option": row["answer"]}


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _save_model(folder: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers.decoders import ByteLevel

    tokenizer.decoder = ByteLevel()
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
