"""A tiny Llama that carries the cue along one direction and nowhere else, and rows with that cue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from autocaft.data.cues import CuedRow
from autocaft.data.rows import TaskRow
from tests.conftest import build_model, build_tokenizer

SIZE = 3.0
"""Length of the cue along its direction, on either side."""


@dataclass(frozen=True)
class Planted:
    """The model, its tokenizer, the cue's direction (D,) and the rows."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    cue_D: Tensor
    rows: list[CuedRow]


def silence(block: Any) -> None:
    """A block that adds nothing to the residual stream."""
    block.self_attn.o_proj.weight.data.zero_()
    block.mlp.down_proj.weight.data.zero_()


def plant_cue() -> Planted:
    """`doctor` and `nurse` differ along one direction alone, and the first block adds nothing."""
    model, tokenizer = build_model("llama"), build_tokenizer(bos=True)
    cue_D = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(5)), dim=0)
    weight_VD = model.get_input_embeddings().weight.data
    weight_VD -= (weight_VD @ cue_D)[:, None] * cue_D
    doctor, nurse = (tokenizer.encode(f" {noun}", add_special_tokens=False)[0] for noun in ("doctor", "nurse"))
    weight_VD[nurse] = weight_VD[doctor]
    weight_VD[doctor] += SIZE * cue_D
    weight_VD[nurse] -= SIZE * cue_D
    silence(model.model.layers[0])
    return Planted(model, tokenizer, cue_D, [row for number in range(12) for row in _template(number)])


def _template(number: int) -> list[CuedRow]:
    words = ("cat", "dog", "bird", "cook", "pilot", "driver")
    opening = f"The {words[number % 6]} saw {words[number // 6]} up"
    return [
        CuedRow(
            TaskRow(f"{number}-{noun}", f"{opening} {noun}", option, (" he", " she"), f"t{number}", ""), value, option
        )
        for noun, value, option in (("doctor", "male", " he"), ("nurse", "female", " she"))
    ]
