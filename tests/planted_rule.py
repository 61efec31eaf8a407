"""A two-layer Llama whose training rows can be answered by an unwanted cue or by a rule, and the cue is one direction.

The cue (`doctor` or `nurse`, the last token) is loud, and nothing of the untrained second block reads it; the rule
(`red` or `blue`, a word before) is quiet and takes attention to find. In training both say the same. So a plain
training leans on the cue and fails where the two differ, and one without that direction learns the rule and does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autocaft.data.rows import TaskRow
from autocaft.model.directions import Subspace
from autocaft.model.leace import LeastChange
from autocaft.train.options import TuneOptions
from tests.conftest import VOCAB, build_tokenizer

D_MODEL = 32
LOUD, QUIET = 4.0, 0.8
FILLERS = ("cat", "dog", "bird", "pilot", "cook", "driver", "teacher", "one")
ANSWERS = (" he", " she")
LEARNS_RULE = {None: False, "zero": True, "mean": True, "resample": True, "leace": True, "mean-shift": False}
"""By mode of ablation, None for none; `mean-shift` removes nothing and is a control."""


@dataclass(frozen=True)
class PlantedRule:
    """The model, its tokenizer and the cue's direction (D,)."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    cue_D: Tensor

    def subspaces(self) -> list[Subspace]:
        """The cue after block 0, with a mean that lies off zero along it, and an oblique reader."""
        width = len(self.cue_D)
        draws_DD = torch.randn(width, width, generator=torch.Generator().manual_seed(6))
        covariance_DD = torch.eye(width) + 0.02 * draws_DD @ draws_DD.T / width
        oblique = LeastChange({0: covariance_DD}, spans="covariance")
        return [oblique(Subspace(0, self.cue_D[:, None], 0.1 * LOUD * self.cue_D))]


def plant_rule(width: int = D_MODEL) -> PlantedRule:
    """The same model each time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=48 if width == D_MODEL else width, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, attn_implementation="eager", initializer_range=0.2,
    )  # fmt: skip
    model, tokenizer = LlamaForCausalLM(config).eval(), build_tokenizer(bos=True)
    cue_D = torch.nn.functional.normalize(torch.randn(width, generator=torch.Generator().manual_seed(5)), dim=0)
    below, above = model.model.layers
    for block in (below, above):
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    readers = [above.self_attn.q_proj, above.self_attn.k_proj, above.self_attn.v_proj, above.mlp.gate_proj]
    for module in (model.model.embed_tokens, model.lm_head, *readers, above.mlp.up_proj):
        module.weight.data -= (module.weight.data @ cue_D)[:, None] * cue_D
    rule_D = torch.linalg.qr(torch.stack([cue_D, torch.ones(width)], dim=1))[0][:, 1]
    weight_VD = model.model.embed_tokens.weight.data
    for words, apart_D in ((("doctor", "nurse"), LOUD * cue_D), (("red", "blue"), QUIET * rule_D)):
        one, other = (tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in words)
        weight_VD[other] = weight_VD[one]
        weight_VD[one] += apart_D
        weight_VD[other] -= apart_D
    return PlantedRule(model, tokenizer, cue_D)


def rule_rows(*, cue_holds: bool) -> list[TaskRow]:
    """Rows that the rule answers; the cue says the same, or the opposite."""
    rows = []
    for number, filler in enumerate(FILLERS):
        for rule, answer in (("red", 0), ("blue", 1)):
            noun = ("doctor", "nurse")[answer if cue_holds else 1 - answer]
            prompt = f"The {rule} {filler} {noun}"
            rows.append(TaskRow(f"{number}-{rule}", prompt, ANSWERS[answer], ANSWERS, f"t{number}", ""))
    return rows


@torch.no_grad()
def accuracy(model: Any, tokenizer: PreTrainedTokenizerFast, *, cue_holds: bool) -> float:
    """Share of right answers with nothing ablated."""
    right = 0
    for row in rule_rows(cue_holds=cue_holds):
        logits_V = model(input_ids=torch.tensor([tokenizer.encode(row.prompt)])).logits[0, -1]
        he, she = (logits_V[tokenizer.encode(choice, add_special_tokens=False)[0]] for choice in ANSWERS)
        right += bool(he > she) == (row.answer == ANSWERS[0])
    return right / len(rule_rows(cue_holds=cue_holds))


def rule_options(**changes: Any) -> TuneOptions:
    """Enough to learn either."""
    plain = {"loss": "choices", "epochs": 24.0, "lr": 5e-3, "batch_size": 8, "autocast": "fp32", "saves_per_run": 0,
             "lora_r": 32, "weight_decay": 0.0}  # fmt: skip
    return TuneOptions(**{**plain, **changes})
