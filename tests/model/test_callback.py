"""Ablation through `transformers.Trainer` in two lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from autocaft.errors import AblationError
from autocaft.model.blocks import decoder_blocks
from autocaft.model.callback import AblationCallback
from autocaft.model.directions import Subspace, orthonormal_basis
from autocaft.model.hooks import ablate

MakeModel = Callable[..., PreTrainedModel]


def subspace() -> Subspace:
    generator = torch.Generator().manual_seed(0)
    return Subspace(1, orthonormal_basis(torch.randn(3, 32, generator=generator)), torch.zeros(32))


def training_rows(first: int = 1) -> list[dict[str, list[int]]]:
    ids_NT = torch.randint(5, 90, (8, 6), generator=torch.Generator().manual_seed(0))
    ids_NT[:, 0] = first
    return [{"input_ids": row, "labels": row} for row in ids_NT.tolist()]


def trainer(model: PreTrainedModel, out: Path, rows: Any, callbacks: list[Any]) -> Trainer:
    args = TrainingArguments(
        str(out), per_device_train_batch_size=4, num_train_epochs=1, learning_rate=1e-2, save_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no", max_grad_norm=0.0,
    )  # fmt: skip
    return Trainer(model, args, train_dataset=rows, callbacks=callbacks)


def n_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_trainer_with_the_callback_trains_as_inside_the_context(make_model: MakeModel, tmp_path: Path) -> None:
    weights, left = [], []
    for how in ("callback", "context", "plain"):
        model = make_model("llama")
        n_before = n_hooks(model)

        def look(module: Any, args: Any, kwargs: Any) -> None:
            acts_BTD = args[0] if args else kwargs["hidden_states"]
            left.append(float((acts_BTD[:, 1:] @ subspace().basis_DK).abs().max()))

        handle = decoder_blocks(model)[2].register_forward_pre_hook(look, with_kwargs=True)
        callbacks = [AblationCallback([subspace()], mode="zero")] if how == "callback" else []
        run = trainer(model, tmp_path / how, training_rows(), callbacks)
        if how == "context":
            with ablate(model, [subspace()], mode="zero"):
                run.train()
        else:
            run.train()
        handle.remove()
        assert n_hooks(model) == n_before
        weights.append(model.lm_head.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert max(left[:4]) < 1e-4 < min(left[4:]), left


def test_a_training_that_raised_is_cleared_by_close_and_by_the_next(make_model: MakeModel, tmp_path: Path) -> None:
    model, callback = make_model("llama"), AblationCallback([subspace()])
    n_before = n_hooks(model)
    mixed = training_rows(1)[:4] + training_rows(9)[4:]
    with pytest.raises(AblationError):
        trainer(model, tmp_path, mixed, [callback]).train()
    assert n_hooks(model) > n_before, "Trainer now tells callbacks of errors: close the hooks there"
    trainer(model, tmp_path, training_rows(), [callback]).train()
    assert n_hooks(model) == n_before
    with pytest.raises(AblationError):
        trainer(model, tmp_path, mixed, [callback]).train()
    callback.close()
    assert n_hooks(model) == n_before
