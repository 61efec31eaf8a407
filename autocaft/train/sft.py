"""Fine-tune on the answers of task rows through `transformers.Trainer`, plain or inside an ablation.

In: a base model, encoded rows, options, a seed, a folder. Out: `model/` (adapter or full weights) and `losses.jsonl`
in that folder. A killed run continues from its last checkpoint with the same batches, and gives the same weights.
Called in each process of a group (train/processes.py), it trains one model in all of them, and the first writes.

The decision a reader would question: `Trainer` with a loss of our own, and not TRL's `SFTTrainer`. The answer is a
few tokens at the end of each row; with left padding the language-model head runs on those positions only, which
SFTTrainer cannot do, and which is a quarter of the time of a small model with a large vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from autocaft.data.encode import encode
from autocaft.data.rows import TaskRow
from autocaft.errors import AblationError, ConfigError, DataError, TrainingError
from autocaft.model.blocks import decoder_blocks
from autocaft.model.directions import Subspace
from autocaft.model.hooks import Ablation, Mode, ablate
from autocaft.model.load import default_device, has_adapter, multiplies_bf16
from autocaft.rundir.files import disk_errors, read_json, remove_folder, replacing_folder, write_jsonl
from autocaft.rundir.progress import Progress
from autocaft.train.baselines import NO_DEPARTURE, Departure, FadeCallback
from autocaft.train.group import EncodedRow, Rows, check_group, whole_weights
from autocaft.train.loss import Collator
from autocaft.train.options import ALL_LINEAR, TuneOptions
from autocaft.train.trainer import AnswerTrainer, Penalties


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TaskRow],
    options: TuneOptions,
    *,
    seed: int,
    out: Path,
    progress: Progress,
    label: str,
    subspaces: Sequence[Subspace] = (),
    mode: Mode = "mean",
    strength: float = 1.0,
    exempt_first: bool = True,
    frozen_up_to: int | None = None,
    departure: Departure = NO_DEPARTURE,
) -> dict[str, Any]:
    """Fine-tune `model` (changed in place) and write the result to `out/model`.

    Args:
        model: the base model in fp32.
        subspaces: what is ablated while training (CAFT, arXiv 2507.16795); none is plain SFT.
        label: what the progress bar says.
        frozen_up_to: the embeddings and the decoder blocks up to this one are not trained; None trains all.
        departure: what a rival or a control does besides.
        out: the same folder in all processes of a group, which are as many as `options.processes`.

    Returns:
        `n_steps`, `final_loss` (mean of the last tenth of the steps) and `n_trained_parameters`.

    Raises:
        TrainingError: the loss is not a number; the last checkpoint stays.
        AblationError: the rows open with different tokens, and the first position is exempt.
        ConfigError: a module of `lora_targets` is not there, or the group cannot do what is asked.
    """
    resamples, copies_base = bool(subspaces) and mode == "resample", departure.kl_weight > 0
    check_group(options, out, resamples=resamples, copies_base=copies_base)
    encoded = encode_rows(tokenizer, rows, options)
    if subspaces and exempt_first:
        _check_openings(encoded)
    transformers.set_seed(seed)
    trained = _with_adapter(model, options) if options.method == "lora" else model
    if frozen_up_to is not None:
        _freeze_below(trained, frozen_up_to)
    n_steps = _n_steps(options, len(encoded))
    n_made = n_steps if departure.stop_at is None else math.ceil(n_steps * departure.stop_at)
    trainer = AnswerTrainer(
        model=trained,
        args=_arguments(options, seed, out, n_steps, n_made),
        train_dataset=Rows(encoded),
        data_collator=Collator(int(tokenizer.pad_token_id)),
        callbacks=[],
        penalties=Penalties(trained, departure),
        n_scheduled=n_steps,
        options=options,
    )
    context: AbstractContextManager[Ablation | None] = nullcontext()
    if subspaces:
        context = ablate(
            trained, subspaces, mode=mode, strength=strength, exempt_first=exempt_first, passes=departure.passes
        )
    with context as ablation, disk_errors(out):
        if departure.fade is not None:
            assert ablation is not None, "nothing is ablated that could fade"
            trainer.add_callback(FadeCallback(ablation, departure.fade, n_steps))
        _run(trainer, out, progress, label, n_made)
    return _finish(trainer, trained, out)


def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[TaskRow], options: TuneOptions) -> list[EncodedRow]:
    """The rows as prompt and answer ids, cut to `max_tokens`.

    Raises:
        TrainingError: a row's answer is cut away entirely, so it could teach nothing.
    """
    encoded = [encode(tokenizer, r.prompt, r.answer, chat=False, max_tokens=options.max_tokens) for r in rows]
    for row, ids in zip(rows, encoded, strict=True):
        if ids.n_prompt >= len(ids.input_ids):
            raise TrainingError(
                f"training row {row.id!r}: its prompt alone fills tune.max_tokens = {options.max_tokens}; raise it"
            )
    rivals = [_rivals(tokenizer, row) if options.loss == "choices" else () for row in rows]
    return [EncodedRow(e.input_ids, e.n_prompt, others) for e, others in zip(encoded, rivals, strict=True)]


def _check_openings(encoded: Sequence[EncodedRow]) -> None:
    """Each process of a group sees its own rows only."""
    openings = sorted({row.input_ids[0] for row in encoded})
    if len(openings) > 1:
        raise AblationError(
            f"training rows open with different tokens (ids {', '.join(map(str, openings[:4]))}), and the first "
            "position is exempt from the ablation. Prepend BOS to every row, or set train.exempt_first = false"
        )


def _rivals(tokenizer: PreTrainedTokenizerBase, row: TaskRow) -> tuple[int, ...]:
    assert row.choices is not None, f"row {row.id} has no choices"
    return tuple(tokenizer.encode(c, add_special_tokens=False)[0] for c in row.choices if c != row.answer)


def _with_adapter(model: PreTrainedModel, options: TuneOptions) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    is_everywhere = options.lora_targets == (ALL_LINEAR,)
    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=options.lora_dropout,
        use_rslora=options.lora_rank_stabilized,
        target_modules=ALL_LINEAR if is_everywhere else _found_targets(model, options.lora_targets),
        task_type="CAUSAL_LM",
    )
    trained: Any = get_peft_model(model, config, revision=getattr(model.config, "_commit_hash", None))
    # PEFT asks the Hub at each save for the config of the base that is named here, at whatever commit is newest, to
    # see whether the vocabulary grew. It never does, so checkpoints name no base; `_save` does.
    trained.peft_config[trained.active_adapter].base_model_name_or_path = ""
    return cast(PreTrainedModel, trained)


def _found_targets(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """The targets, each of which must be there: peft is content when one of them is."""
    names = [f".{name}" for name, _ in model.named_modules()]
    missing = [target for target in targets if not any(name.endswith(f".{target}") for name in names)]
    if missing:
        parts = {name.rpartition(".")[2] for block in decoder_blocks(model) for name, _ in block.named_modules()}
        raise ConfigError(
            f"tune.lora_targets: {type(model).__name__} has no module {', '.join(missing)}; its decoder blocks have "
            f"{', '.join(sorted(part for part in parts if part))}"
        )
    return list(targets)


def _freeze_below(model: PreTrainedModel, layer: int) -> None:
    """No gradient for the embeddings (and a head tied to them) and the blocks up to `layer`.

    An adapter there stays as it was made, with an output of zero.
    """
    blocks = decoder_blocks(model)
    if layer + 1 >= len(blocks):
        raise TrainingError(
            f"tune.trained_blocks = 'above' leaves no block to train: the lowest of `layers` is {layer}, and the model "
            f"has {len(blocks)} blocks"
        )
    for module in (model.get_input_embeddings(), *blocks[: layer + 1]):
        module.requires_grad_(False)


def _arguments(options: TuneOptions, seed: int, out: Path, n_steps: int, n_made: int) -> TrainingArguments:
    """Arguments of a training of `n_steps` steps that ends after `n_made`."""
    every = max(1, -(-n_steps // (options.saves_per_run + 1)))
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=options.epochs,
        max_steps=n_made if n_made < n_steps else -1,
        learning_rate=options.lr,
        per_device_train_batch_size=options.share[0],
        gradient_accumulation_steps=options.share[1],
        warmup_steps=math.ceil(n_steps * options.warmup_share),
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(options.schedule, options.schedule),
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_betas[0],
        adam_beta2=options.adam_betas[1],
        max_grad_norm=options.max_grad_norm,
        bf16=options.autocast == "bf16" and multiplies_bf16(default_device()),
        optim="adamw_torch_fused",
        activation_checkpointing=options.gradient_checkpointing,
        use_cpu=not torch.accelerator.is_available(),
        fsdp="full_shard" if options.sharding == "fsdp" else None,
        fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"} if options.sharding == "fsdp" else None,
        save_strategy="steps" if options.saves_per_run else "no",
        save_steps=every,
        save_total_limit=1,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=seed,
        data_seed=seed,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
    )
    assert arguments.device is not None
    arguments._n_gpu = 1  # or Trainer would spread each batch over all visible GPUs, and make it so many times as large
    return arguments


def _n_steps(options: TuneOptions, n_rows: int) -> int:
    """Optimizer steps of the whole training, counted as Trainer does."""
    per_epoch = -(-n_rows // (options.batch_size * options.grad_accumulation))
    return max(1, math.ceil(per_epoch * options.epochs))


class _ProgressCallback(TrainerCallback):
    """Moves the bar by one optimizer step at a time."""

    def __init__(self, advance: Any) -> None:
        self.advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the steps of an earlier attempt as done."""
        self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step done."""
        self.advance(1)


def _run(trainer: Trainer, out: Path, progress: Progress, label: str, n_steps: int) -> None:
    """Train, from the last whole checkpoint if there is one."""
    last = _last_checkpoint(out / "checkpoints")
    if last is not None and _step_of(last) >= n_steps:
        # Trainer would make one step more where the end lies inside a pass over the rows.
        if trainer.is_fsdp_enabled:
            trainer._prepare_for_training(n_steps, trainer.get_train_dataloader(), str(last))
        else:
            trainer._load_from_checkpoint(str(last))
        trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        return
    with progress.task(label, n_steps, "steps") as advance:
        trainer.add_callback(_ProgressCallback(advance))
        trainer.train(resume_from_checkpoint=str(last) if last else None)


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end (the trainer state is its last file)."""
    found = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    return max(found, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except DataError:  # killed while it was written; the checkpoint before is still there
        return False
    return True


def _save(trained: Any, folder: Path, weights: dict[str, torch.Tensor] | None) -> None:
    """Write the model, or its adapter with the base's name; `weights` are given where they are sharded."""
    if not has_adapter(trained):
        trained.save_pretrained(folder, state_dict=weights)
        return
    trained.peft_config[trained.active_adapter].base_model_name_or_path = trained.get_base_model().name_or_path or None
    trained.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)


def _finish(trainer: Trainer, trained: PreTrainedModel, out: Path) -> dict[str, Any]:
    """Save the weights and the losses, then drop the checkpoints, which are three times as large."""
    # Sorted as in a checkpoint, so that a continued run writes the same bytes as one that was never stopped.
    losses = [dict(sorted(row.items())) for row in trainer.state.log_history if "loss" in row]
    weights = whole_weights(trained) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        with replacing_folder(out / "model") as tmp:
            _save(trained, tmp, weights)
        write_jsonl(out / "losses.jsonl", losses)
        remove_folder(out / "checkpoints")
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "n_steps": trainer.state.global_step,
        "final_loss": sum(row["loss"] for row in tail) / len(tail),
        "n_trained_parameters": sum(p.numel() for p in trained.parameters() if p.requires_grad),
    }
