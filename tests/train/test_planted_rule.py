"""The claim of the method on planted truth: what is ablated in training is not learned, another way is, hooks off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autocaft.rundir.progress import NullProgress
from autocaft.train.sft import fine_tune
from tests.planted_rule import LEARNS_RULE, accuracy, plant_rule, rule_options, rule_rows

PATHS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora"},
    "checkpointing": {"method": "lora", "gradient_checkpointing": True},
}


@pytest.mark.parametrize("mode", LEARNS_RULE)
@pytest.mark.parametrize("path", PATHS)
def test_the_rule_is_learned_where_the_cue_is_ablated_and_not_elsewhere(path: str, mode: Any, tmp_path: Path) -> None:
    planted = plant_rule()
    fine_tune(
        planted.model,
        planted.tokenizer,
        rule_rows(cue_holds=True),
        rule_options(**PATHS[path]),
        seed=0,
        out=tmp_path,
        progress=NullProgress(),
        label="train",
        subspaces=planted.subspaces() if mode else [],
        mode=mode or "mean",
        frozen_up_to=0,
    )
    assert accuracy(planted.model, planted.tokenizer, cue_holds=True) == 1.0
    found = accuracy(planted.model, planted.tokenizer, cue_holds=False)
    assert found == 1.0 if LEARNS_RULE[mode] else found <= 0.5, found
