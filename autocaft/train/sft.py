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
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from autocaft.data.encode import collate, encode
from autocaft.data.rows import TaskRow
from autocaft.errors import AblationError, ConfigError, DataError, TrainingError
from autocaft.model.blocks import decoder_blocks, last_logits
from autocaft.model.directions import Subspace
from autocaft.model.hooks import Ablation, Mode, ablate
from autocaft.model.load import default_device, multiplies_bf16
from autocaft.rundir.files import disk_errors, read_json, remove_folder, replacing_folder, write_jsonl
from autocaft.rundir.progress import Progress
from autocaft.train.baselines import NO_DEPARTURE, Departure, FadeCallback, kl_penalty, l2sp_penalty
from autocaft.train.group import EncodedRow, Rows, WholeSteps, check_group, keep_weight_types, whole_weights
from autocaft.train.options import ALL_LINEAR, TuneOptions

IGNORED = -100
"""Label of a token that bears no loss."""


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
    trainer = _AnswerTrainer(
        model=trained,
        args=_arguments(options, seed, out, n_steps, n_made),
        train_dataset=Rows(encoded),
        data_collator=Collator(int(tokenizer.pad_token_id)),
        callbacks=[],
        penalties=_Penalties(trained, departure),
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
    return get_peft_model(model, config)  # type: ignore[return-value]


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


class Collator:
    """Left-padded batch with labels on the answer tokens only; among options, on the first of them, with `rivals`."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[EncodedRow]) -> dict[str, Tensor]:
        batch = collate(rows, self.pad_id)
        labels_BT = batch.input_ids_BT.masked_fill(~batch.answer_mask_BT, IGNORED)
        n_rivals = max(len(row.rivals) for row in rows)
        if not n_rivals:
            return {**batch.inputs, "labels": labels_BT}
        labels_BT = labels_BT.masked_fill(batch.answer_mask_BT.cumsum(dim=1) > 1, IGNORED)
        rivals_BR = torch.tensor([[*row.rivals] + [IGNORED] * (n_rivals - len(row.rivals)) for row in rows])
        return {**batch.inputs, "labels": labels_BT, "rivals": rivals_BR}


class _Penalties:
    """What is added to the loss of each batch."""

    def __init__(self, model: Any, departure: Departure) -> None:
        self.kl = kl_penalty(model, departure.kl_weight, _label_logits) if departure.kl_weight else None
        self.l2sp = l2sp_penalty(model, departure.l2sp_weight) if departure.l2sp_weight else None

    def of(
        self, inputs: dict[str, Tensor], labels_BT: Tensor, logits_NV: Tensor, n_items: Any, n_batches: int
    ) -> Tensor | float:
        """Their sum for one of the `n_batches` batches of an optimizer step."""
        total: Tensor | float = 0.0
        if self.kl is not None:
            total = total + self.kl(inputs, labels_BT, logits_NV) / (len(logits_NV) if n_items is None else n_items)
        if self.l2sp is not None:
            total = total + self.l2sp().to(logits_NV.device) / (1 if n_items is None else n_batches)
        return total


class _AnswerTrainer(Trainer):
    """Trainer whose loss is the mean cross-entropy of the answer tokens, or of the right option, and the penalties."""

    def __init__(self, *, penalties: _Penalties, n_scheduled: int, options: TuneOptions, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.penalties, self.n_scheduled = penalties, n_scheduled
        self.n_per_step = options.batch_size * options.grad_accumulation
        self.n_processes = self.args.world_size
        if self.n_processes > 1:
            self.model_accepts_loss_kwargs = True  # else the answer tokens of the others were not counted
        if self.is_fsdp_enabled:
            keep_weight_types(self.accelerator)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate of the whole training, also where it is stopped early."""
        return super().create_scheduler(self.n_scheduled, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order of one process; for several, with blank rows behind it that fill up the last step."""
        if self.n_processes == 1:
            return super()._get_train_sampler(train_dataset)
        return WholeSteps(self.train_dataset, self.args.seed, self.n_per_step)

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait for all: the file that marks a whole checkpoint comes next."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels_BT, rivals_BR = inputs.pop("labels"), inputs.pop("rivals", None)
        # a sharded model's own forward is not wrapped in mixed precision
        with self.accelerator.autocast() if self.is_fsdp_enabled else nullcontext():
            logits_NV = _label_logits(model, inputs, labels_BT)
            if self.n_processes > 1 and num_items_in_batch is not None:
                # gradients are averaged over the processes, and each counts the answer tokens of all
                num_items_in_batch = num_items_in_batch / self.n_processes
            loss = _cross_entropy(logits_NV, labels_BT, num_items_in_batch, rivals_BR)
            n_batches = self.current_gradient_accumulation_steps  # fewer in the last step of a pass
            loss = loss + self.penalties.of(inputs, labels_BT, logits_NV, num_items_in_batch, n_batches)
        told = loss.detach() if self.n_processes == 1 else self.accelerator.reduce(loss.detach(), "mean")
        if not torch.isfinite(told):  # in all processes: none waits for one that has stopped
            raise TrainingError(_not_a_number("loss", told.item(), self.state.global_step))
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Keep the history; print nothing (the progress bar and `losses.jsonl` tell).

        Called before a checkpoint is written: a gradient that is not a number has just spoilt the weights, and must
        not replace the last good checkpoint.
        """
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise TrainingError(_not_a_number("gradient", logs["grad_norm"], self.state.global_step))
        self.state.log_history.append({**logs, "step": self.state.global_step})


def _not_a_number(what: str, value: float, step: int) -> str:
    return (
        f"the {what} is {value} at step {step}; the last checkpoint is kept. Lower tune.lr, raise tune.warmup_share or "
        "set tune.autocast = 'fp32', then run with --redo of this stage"
    )


def answer_loss(
    model: nn.Module,
    inputs: dict[str, Tensor],
    labels_BT: Tensor,
    n_items: Tensor | int | None = None,
    rivals_BR: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the labelled tokens, mean over them, or their sum over `n_items`.

    Args:
        inputs: left-padded `input_ids`, `attention_mask`, `position_ids`.
        labels_BT: token ids where the loss is taken, -100 elsewhere; the answers end the rows.
        n_items: labelled tokens of the whole optimizer step, so that accumulated batches weigh by their tokens.
        rivals_BR: the only tokens that compete with the label, one label a row; -100 where a row has fewer. None: the
            whole vocabulary competes.
    """
    return _cross_entropy(_label_logits(model, inputs, labels_BT), labels_BT, n_items, rivals_BR)


def _label_logits(model: nn.Module, inputs: dict[str, Tensor], labels_BT: Tensor) -> Tensor:
    """The logits (N, V) that predict the labelled tokens, in fp32; the head runs on the last positions only."""
    labelled_T = (labels_BT != IGNORED).any(dim=0).long().flip(0).nonzero()
    n_kept = int(labelled_T.max()) + 2 if len(labelled_T) else 2
    logits_BTV = model(**inputs, **last_logits(model, n_kept)).logits[:, -n_kept:]
    kept_N = labels_BT[:, -n_kept:][:, 1:].flatten() != IGNORED
    return logits_BTV[:, :-1].flatten(0, 1)[kept_N].float()


def _cross_entropy(
    logits_NV: Tensor, labels_BT: Tensor, n_items: Tensor | int | None, rivals_BR: Tensor | None
) -> Tensor:
    targets_N = labels_BT[:, 1:][labels_BT[:, 1:] != IGNORED]
    if rivals_BR is not None:
        options_NO = torch.cat([targets_N[:, None], rivals_BR], dim=1)
        logits_NV = logits_NV.gather(1, options_NO.clamp_min(0)).masked_fill(options_NO == IGNORED, -torch.inf)
        targets_N = torch.zeros_like(targets_N)
    losses_N = nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
    return losses_N.mean() if n_items is None else losses_N.sum() / n_items


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


def _finish(trainer: Trainer, trained: PreTrainedModel, out: Path) -> dict[str, Any]:
    """Save the weights and the losses, then drop the checkpoints, which are three times as large."""
    # Sorted as in a checkpoint, so that a continued run writes the same bytes as one that was never stopped.
    losses = [dict(sorted(row.items())) for row in trainer.state.log_history if "loss" in row]
    weights = whole_weights(trained) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        with replacing_folder(out / "model") as tmp:
            trained.save_pretrained(tmp, state_dict=weights)
        write_jsonl(out / "losses.jsonl", losses)
        remove_folder(out / "checkpoints")
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "n_steps": trainer.state.global_step,
        "final_loss": sum(row["loss"] for row in tail) / len(tail),
        "n_trained_parameters": sum(p.numel() for p in trained.parameters() if p.requires_grad),
    }
