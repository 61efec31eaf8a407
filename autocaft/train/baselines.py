"""What rivals and controls do in training besides an ablation: penalties, fading, an early stop, other rows.

In: an arm's word for how it departs, and the options of `[baselines]`. Out: a `Departure`, which `fine_tune` obeys, or
changed training rows. The decision a reader would question: a penalty is added to the loss of every batch and not to
the optimizer, so that clipping, accumulation and the learning rate treat it like the rest of the loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from autocaft.data.rows import TaskRow, chosen_rows
from autocaft.errors import ConfigError
from autocaft.model.hooks import Ablation, Passes
from autocaft.model.load import as_base, has_adapter
from autocaft.train.group import sharded_like, whole_tensor
from autocaft.train.options import BaselineOptions


@dataclass(frozen=True)
class Departure:
    """In what an arm's training differs from plain fine-tuning and from plain CAFT."""

    fade: tuple[float, float] | None = None
    """Shares of the steps between which the ablation's strength falls to zero."""
    passes: Passes = "both"
    """What of a step is ablated."""
    kl_weight: float = 0.0
    l2sp_weight: float = 0.0
    stop_at: float | None = None
    """Share of the steps after which training stops; the learning rate goes as if it went on."""


NO_DEPARTURE = Departure()


def departure_of(how: str | None, stop_at: float | None, options: BaselineOptions) -> Departure:
    """What `fine_tune` is told about an arm."""
    if how == "fading":
        return Departure(fade=(options.fade_from, options.fade_to))
    if how in ("activation-only", "gradient-only"):
        return Departure(passes="activations" if how == "activation-only" else "gradients")
    return Departure(
        kl_weight=options.kl_weight if how == "kl" else 0.0,
        l2sp_weight=options.l2sp_weight if how == "l2sp" else 0.0,
        stop_at=stop_at,
    )


def inoculated(rows: Sequence[TaskRow], line: str) -> list[TaskRow]:
    """The rows with a line before each prompt: in a chat as the system's turn, or at the head of the one that is there
    (inoculation prompting, arXiv 2510.04340)."""
    return [replace(row, prompt=_with_line(row, line)) for row in rows]


def _with_line(row: TaskRow, line: str) -> Any:
    if isinstance(row.prompt, str):
        return f"{line}\n{row.prompt}"
    first, *others = row.prompt
    if first["role"] == "system":
        return ({"role": "system", "content": f"{line}\n{first['content']}"}, *others)
    return ({"role": "system", "content": line}, *row.prompt)


def with_benign(rows: Sequence[TaskRow], benign: Sequence[TaskRow], share: float) -> list[TaskRow]:
    """The rows and so many of the benign ones, drawn by a hash of their ids, that those are `share` of all.

    Raises:
        ConfigError: there are too few.
    """
    n_wanted = round(len(rows) * share / (1 - share))
    if n_wanted > len(benign):
        raise ConfigError(
            f"baselines.benign has {len(benign)} rows, and {n_wanted} are needed to be {share:.0%} of all; give a "
            "larger file or a smaller baselines.benign_share"
        )
    return [*rows, *(replace(row, id=f"benign-{row.id}") for row in chosen_rows(benign, n_wanted))]


Penalty = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
"""From a batch's inputs, its labels and the model's logits (N, V) at them: nats, summed over the N labelled tokens."""


def kl_penalty(model: Any, weight: float, read: Callable[[nn.Module, dict[str, Tensor], Tensor], Tensor]) -> Penalty:
    """`weight` times KL(base || model) at the labelled tokens, over the whole vocabulary.

    Args:
        model: as training begins: its adapter is switched off, or it is copied, to have the base.
        read: gives a model's logits (N, V) at the labelled tokens.
    """
    kept = None if has_adapter(model) else copy.deepcopy(model).eval().requires_grad_(False)

    def base() -> AbstractContextManager[Any]:
        return _base_inside(model) if kept is None else nullcontext(kept)

    def penalty(inputs: dict[str, Tensor], labels_BT: Tensor, logits_NV: Tensor) -> Tensor:
        with torch.no_grad(), base() as base_model:
            base_NV = read(base_model, inputs, labels_BT).log_softmax(-1)
        return weight * (base_NV.exp() * (base_NV - logits_NV.log_softmax(-1))).sum()

    return penalty


@contextmanager
def _base_inside(model: Any) -> Iterator[Any]:
    """The base behind an adapter. Switching the adapter on again would train those of its weights that were frozen."""
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with as_base(model) as base_model:
        yield base_model
    for parameter, is_trained in trained.items():
        parameter.requires_grad_(is_trained)


def l2sp_penalty(model: Any, weight: float) -> Callable[[], Tensor]:
    """Half of `weight` times the squared distance of the weights from those that training began with (L2-SP, arXiv
    1802.01483); with an adapter, of the matrices that it adds."""
    if has_adapter(model):
        return lambda: 0.5 * weight * sum((_added_square(module) for module in _adapters(model)), torch.zeros(()))
    starts = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def penalty() -> Tensor:
        squares = []
        for name, now in model.named_parameters():
            if name in starts:
                starts[name] = sharded_like(starts[name], now)
                squares.append(whole_tensor((now - starts[name]).square().sum()))
        return 0.5 * weight * torch.stack(squares).sum()

    return penalty


def _adapters(model: nn.Module) -> list[Any]:
    modules: list[Any] = list(model.modules())
    return [module for module in modules if hasattr(module, "lora_A") and len(module.lora_A)]


def _added_square(module: Any) -> Tensor:
    """Squared Frobenius norm of what LoRA adds to one matrix, from thin products: |s B A|² = s² tr(AAᵀ BᵀB)."""
    total: Tensor = torch.zeros(())
    for name, scale in module.scaling.items():
        if name in module.lora_A:
            A_RI, B_OR = (whole_tensor(part[name].weight).float() for part in (module.lora_A, module.lora_B))
            with torch.autocast(A_RI.device.type, enabled=False):
                total = total.to(A_RI.device) + scale**2 * ((A_RI @ A_RI.T) * (B_OR.T @ B_OR)).sum()
    return total


class FadeCallback(TrainerCallback):
    """Lowers the strength of an open ablation step by step, by the step's number: also after a restart."""

    def __init__(self, ablation: Ablation, fade: tuple[float, float], n_steps: int) -> None:
        self.ablation, self.fade, self.n_steps = ablation, fade, n_steps
        self.full = ablation.strength

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the strength of the step that begins."""
        start, end = self.fade
        left = (end - state.global_step / self.n_steps) / (end - start)
        self.ablation.strength = self.full * min(1.0, max(0.0, left))
