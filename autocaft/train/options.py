"""Options of `[tune]` (the fine-tuning itself), `[train]` (what CAFT adds to it) and `[baselines]` (what rivals do).

One set of fine-tuning options serves every arm: an arm that trained longer or faster would be no control.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from autocaft.arms import How
from autocaft.rundir.options import Options, added, transport

ALL_LINEAR = "all-linear"


class TuneOptions(Options):
    """How every arm is fine-tuned."""

    method: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter on linear layers (`lora_targets`), `full` every weight."""
    trained_blocks: Literal["all", "above"] = "all"
    """`above` leaves the embeddings and the decoder blocks up to the lowest of `layers` as they are, in every arm: what
    lies below an ablation cannot learn to lead the cue around it, and the chosen directions keep their meaning."""
    loss: Literal["answer", "choices"] = "answer"
    """`answer`: cross-entropy of the answer's tokens. `choices`, for rows with choices: of the right option among the
    row's options, by the logits of their first tokens, as they are compared when measured. Where an ablation takes away
    what the answer's word says besides (its gender), `answer` still asks for it: it pays for finding it elsewhere."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the training rows."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate; about 2e-4 to 1e-3 for LoRA, 1e-5 to 5e-5 for full fine-tuning."""
    batch_size: int = Field(16, ge=1)
    """Rows at once in a process; `batch_size` times `grad_accumulation` rows make an optimizer step."""
    grad_accumulation: int = Field(1, ge=1)
    """Batches per optimizer step of one process; several share them."""
    processes: int = transport(1, ge=1)
    """Processes that train one model together, a GPU each where there are GPUs. An optimizer step has the same rows
    however many share them, and the loss is taken over all: the weights differ in their last bits, and where something
    is drawn (dropout, `resample`) by other draws."""
    sharding: Literal["none", "fsdp"] = transport("none")
    """What several processes hold. `none`: each the whole model (DDP). `fsdp`: each its share of weights, gradients and
    AdamW's averages (FSDP2), for a training that does not fit on one card."""
    warmup_share: float = Field(0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises from zero."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's running averages of the gradient and its square."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    max_tokens: int = Field(1024, ge=8)
    """Rows are cut to this many tokens."""
    autocast: Literal["bf16", "fp32"] = "bf16"
    """Precision of matrix products; weights keep their own (`dtype`). Hardware without bf16 products takes fp32
    instead, and the report tells."""
    lora_r: int = Field(16, ge=1)
    """Rank of the adapter."""
    lora_alpha: float = Field(32.0, gt=0)
    """Scale of the adapter; divided by the root of the rank (`lora_rank_stabilized`)."""
    lora_rank_stabilized: bool = added(True)
    """rsLoRA (arXiv 2312.03732). `false` divides by the rank itself, as LoRA was published: at rank 16 a quarter."""
    lora_targets: tuple[str, ...] = added((ALL_LINEAR,))
    """Modules that get an adapter, as `["q_proj", "v_proj"]`; `["all-linear"]` is all linear layers but the head."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in front of the adapter."""
    gradient_checkpointing: bool = transport(False)
    """Recompute activations in the backward pass: less memory, about a third more time, same result."""
    saves_per_run: int = transport(3, ge=0)
    """Checkpoints written on the way; a killed run continues from the last one. 0 writes none."""

    @field_validator("lora_targets", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One name may stand without brackets."""
        if not value:
            raise ValueError('names no module; "all-linear" takes all linear layers')
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _shared(self) -> Self:
        n_rows = self.batch_size * self.grad_accumulation
        if n_rows % self.processes:
            raise ValueError(
                f"processes = {self.processes} must divide the rows of an optimizer step, batch_size x "
                f"grad_accumulation = {n_rows}"
            )
        if self.sharding == "fsdp" and self.processes == 1:
            raise ValueError('sharding = "fsdp" needs two processes or more to shard among')
        return self

    @property
    def share(self) -> tuple[int, int]:
        """Rows at once, and batches a step, in each process."""
        n_rows = self.batch_size * self.grad_accumulation // self.processes
        at_once = max(n for n in range(1, min(self.batch_size, n_rows) + 1) if n_rows % n == 0)
        return at_once, n_rows // at_once


class TrainOptions(Options):
    """How the chosen directions are ablated while an arm trains."""

    mode: Literal["mean", "zero", "resample", "leace"] = "mean"
    """`zero` removes the projection (the paper), `mean` keeps the base model's mean, `resample` puts another row's
    projection there: the model meets in training what it will meet when the ablation ends, and cannot rely on it.
    `leace` goes towards the mean by an oblique projection that leaves no more for a linear reader and changes the
    activations least (model/leace.py); with `basis = "direction"` the coordinates are the projections on the chosen
    directions, with `"covariance"` those that the covariances are with."""
    basis: Literal["direction", "covariance"] = "direction"
    """What is removed for a chosen direction. `direction`: its own vector (the paper). `covariance`: the covariance of
    the activations with its coordinate, after which no linear reader can tell that coordinate (discover/cross.py)."""
    mean_of: Literal["generic", "train"] = "generic"
    """On which texts that mean is taken. `train` (the training rows) changes a task's prompts least, so that less comes
    back when the ablation ends; only for concepts that vary from row to row: one that all rows share is in the mean."""
    strength: float = Field(1.0, gt=0, le=1)
    """Share of the projection that is removed."""
    exempt_first: bool = True
    """Leave the first position of each row alone: it is an attention sink, the same token in every row."""


class BaselineOptions(Options):
    """Rivals and controls that ask for a setting; each is read by the arms of its name alone."""

    fade_from: float = Field(0.6, ge=0, lt=1)
    """Arms `caft-...-fading`: share of the steps at which the ablation begins to fade."""
    fade_to: float = Field(0.95, gt=0, le=1)
    """Share of the steps at which it has faded to nothing."""
    steering: float = Field(1.0, gt=0)
    """Arms `caft-...-preventative`: how many standard deviations (of the base model's activations) are added along each
    chosen direction, towards its unwanted end, while it trains."""
    inoculation: str | None = None
    """Arm `tuned-inoculation`: the line that stands before every training prompt (in a chat, as the system's turn) and
    asks for what is unwanted, so that the model need not learn it as its own. It can become a trigger."""
    kl_weight: float = Field(0.1, gt=0)
    """Arm `tuned-kl`: weight of KL(base || model), in nats a labelled token, beside the loss."""
    l2sp_weight: float = Field(0.01, gt=0)
    """Arm `tuned-l2sp`: weight of half the squared distance from the base model's weights."""
    benign: str | None = transport(None)
    """Arm `tuned-benign`: harmless rows in the format of `data.train`. Their content counts, not their path."""
    benign_share: float = Field(0.1, gt=0, lt=1)
    """Their share of all rows."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fade_from >= self.fade_to:
            raise ValueError(f"fade_from = {self.fade_from:g} must come before fade_to = {self.fade_to:g}")
        return self


_READ_BY: dict[How, tuple[str, ...]] = {
    "fading": ("fade_from", "fade_to"),
    "preventative": ("steering",),
    "inoculation": ("inoculation",),
    "kl": ("kl_weight",),
    "l2sp": ("l2sp_weight",),
    "benign": ("benign_share",),
}


def baseline_options(options: BaselineOptions, how: How | None) -> dict[str, Any]:
    """Those of the options that one arm reads: another arm's do not make it anew."""
    names = _READ_BY.get(how, ()) if how is not None else ()
    return {"baselines": {name: getattr(options, name) for name in names}} if names else {}
