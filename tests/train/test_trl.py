"""Ablation in TRL's SFTTrainer, the trainer that most scripts use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from autocaft.model.blocks import decoder_blocks
from autocaft.model.callback import AblationCallback
from autocaft.model.hooks import ablate
from tests.planted_rule import accuracy, plant_rule, rule_rows


@pytest.mark.parametrize("how", ["callback", "context", "plain"])
def test_the_rule_is_learned_in_sft_trainer_with_lora_and_checkpointing(how: str, tmp_path: Path) -> None:
    planted, left = plant_rule(), []
    subspaces = planted.subspaces()
    basis_DK, mean_D = subspaces[0].basis_DK, subspaces[0].mean_D

    def look(module: Any, args: Any, kwargs: Any) -> None:
        acts_BTD = (args[0] if args else kwargs["hidden_states"]).detach()
        left.append(float(((acts_BTD[:, 1:] - mean_D) @ basis_DK).abs().max() / acts_BTD.abs().max()))

    decoder_blocks(planted.model)[1].register_forward_pre_hook(look, with_kwargs=True)
    arguments = SFTConfig(
        str(tmp_path), per_device_train_batch_size=8, num_train_epochs=24, learning_rate=1e-2,
        lr_scheduler_type="constant", completion_only_loss=True, activation_checkpointing=True, packing=False,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, bf16=False, logging_strategy="no",
    )  # fmt: skip
    rows = [{"prompt": row.prompt, "completion": row.answer} for row in rule_rows(cue_holds=True)]
    # what lies below the ablation is left alone, or it leads the cue around it
    adapter = LoraConfig(
        r=32,
        lora_alpha=32,
        use_rslora=True,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=[1],
        task_type="CAUSAL_LM",
    )
    callbacks = [AblationCallback(subspaces)] if how == "callback" else []
    trainer = SFTTrainer(
        planted.model, arguments, train_dataset=Dataset.from_list(rows), processing_class=planted.tokenizer,
        peft_config=adapter, callbacks=callbacks,
    )  # fmt: skip
    if how == "context":
        with ablate(trainer.model, subspaces):
            trainer.train()
    else:
        trainer.train()
    assert len(left) >= 48, "each step"
    assert (max(left) <= 1e-5) == (how != "plain"), max(left)
    assert accuracy(trainer.model, planted.tokenizer, cue_holds=True) == 1.0
    found = accuracy(trainer.model, planted.tokenizer, cue_holds=False)
    assert found <= 0.5 if how == "plain" else found == 1.0, found
