"""Which latents did fine-tuning use?  The paper's three rankings, and their union.

In: the model, training rows, dictionaries, paired activations. Out: a score for every latent from each ranking, and
a shortlist.

`attribution`         gradient of the answer's loss at the hookpoint, dotted with the decoder row times the latent's
                      activation, summed over a row's tokens; mean absolute value over rows
`difference`          mean activation under tuned minus under base; absolute value
`sae-of-difference`   mean activation of what the encoder reads in (mean + tuned - base); the mean stands in for the
                      origin, because the encoder subtracts it

The decision a reader would question: attribution takes the BASE model's gradient. The tuned model's loss on its own
training rows is nearly zero, and so is its gradient. Gradients are of the loss, and a row may raise or lower it: signs
would cancel over rows, hence the absolute value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocaft.data.encode import Batch, Encoded, batches
from autocaft.discover.pair import Model, device_of
from autocaft.discover.paired import read_positions
from autocaft.discover.sae import Dictionary, rows_at_once
from autocaft.model.blocks import decoder_blocks
from autocaft.model.load import autocast_bf16
from autocaft.rundir.progress import Progress

RRF = 60
"""Constant of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)."""


def attribution(
    model: Model,
    encoded: Sequence[Encoded],
    dictionaries: Mapping[int, Dictionary],
    *,
    tokens_per_batch: int,
    pad_id: int,
    progress: Progress,
) -> dict[int, Tensor]:
    """Attribution score (S,) of every latent, by layer."""
    scores = {layer: torch.zeros(d.d_sae, device=d.directions_SD.device) for layer, d in dictionaries.items()}
    layers = sorted(dictionaries)
    with _frozen(model), progress.task("attribution", len(encoded), "rows") as advance:
        for chosen, batch in batches(
            encoded, tokens_per_batch=tokens_per_batch, pad_id=pad_id, device=device_of(model)
        ):
            acts, grads = loss_gradients(model, batch, layers)
            read_BT = read_positions(batch, "all")
            for layer in layers:
                scores[layer] += _row_scores(dictionaries[layer], acts[layer], grads[layer], read_BT)
            advance(len(chosen))
    return {layer: (score_S / len(encoded)).cpu() for layer, score_S in scores.items()}


@torch.no_grad()
def _row_scores(dictionary: Dictionary, acts_BTD: Tensor, grads_BTD: Tensor, read_BT: Tensor) -> Tensor:
    """Sum over rows of |sum over tokens of activation times gradient along the direction|, (S,)."""
    score_S = torch.zeros_like(dictionary.row_norm_S)
    for acts_TD, grads_TD, read_T in zip(acts_BTD, grads_BTD, read_BT, strict=True):
        latents_TS = dictionary.encode(acts_TD[read_T])
        slopes_TS = grads_TD[read_T].float().to(latents_TS.device) @ dictionary.directions_SD.T
        score_S += (latents_TS * slopes_TS).sum(dim=0).abs()
    return score_S


def loss_gradients(model: Model, batch: Batch, layers: Sequence[int]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Activations and gradients of the summed answer loss at the hookpoints, (B, T, D) by layer.

    The shallowest hookpoint is cut from what is below it, so nothing there is differentiated.
    """
    acts: dict[int, Tensor] = {}
    with _cut_and_capture(model, layers, acts), autocast_bf16(device_of(model)), torch.enable_grad():
        n_answer = int(batch.answer_mask_BT.sum(dim=1).max())
        assert n_answer > 0, "no answer tokens in this batch"
        # The answer ends every row, so the head runs on the last positions only.
        logits_BAV = model(**batch.inputs, use_cache=False, logits_to_keep=n_answer + 1).logits[:, :-1].float()
        labels_BA = batch.input_ids_BT[:, -n_answer:].masked_fill(~batch.answer_mask_BT[:, -n_answer:], -100)
        loss = nn.functional.cross_entropy(logits_BAV.flatten(0, 1), labels_BA.flatten(), reduction="sum")
    grads = torch.autograd.grad(loss, [acts[layer] for layer in layers])
    return {layer: acts[layer].detach() for layer in layers}, dict(zip(layers, grads, strict=True))


@contextmanager
def _cut_and_capture(model: Model, layers: Sequence[int], acts: dict[int, Tensor]) -> Iterator[None]:
    first = min(layers)

    def hook_of(layer: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: object, output: object) -> object:
            acts_BTD = output[0] if isinstance(output, tuple) else output
            assert isinstance(acts_BTD, Tensor)
            acts[layer] = acts_BTD.detach().requires_grad_() if layer == first else acts_BTD
            return (acts[layer], *output[1:]) if isinstance(output, tuple) else acts[layer]

        return hook

    blocks = decoder_blocks(model)
    handles = [blocks[layer].register_forward_hook(hook_of(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(model: Model) -> Iterator[None]:
    """No weight asks for a gradient inside: activations that only weights would need are then not kept."""
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in asking:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in asking:
            weight.requires_grad_(True)


class LatentChange:
    """Adds up how much the mean activation of each latent of one layer differs between two models."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary, self.n = dictionary, 0
        self.sum_S = torch.zeros(dictionary.d_sae, device=dictionary.directions_SD.device)

    def update(self, base_ND: Tensor, tuned_ND: Tensor) -> None:
        """Add paired activations."""
        for base, tuned in _few_at_once(self.dictionary, base_ND, tuned_ND):
            self.sum_S += (self.dictionary.encode(tuned) - self.dictionary.encode(base)).sum(dim=0)
        self.n += len(base_ND)

    def mean_S(self) -> Tensor:
        """Mean activation under tuned minus under base, (S,)."""
        return (self.sum_S / max(1, self.n)).cpu()


class DifferenceRanker:
    """Adds up what `difference` and `sae-of-difference` need from paired activations of one layer."""

    def __init__(self, dictionary: Dictionary, mean_D: Tensor) -> None:
        self.change = LatentChange(dictionary)
        self.dictionary, self.mean_D = dictionary, mean_D.to(self.change.sum_S.device)
        self.read_S = torch.zeros_like(self.change.sum_S)

    def update(self, base_ND: Tensor, tuned_ND: Tensor) -> None:
        """Add paired activations."""
        self.change.update(base_ND, tuned_ND)
        for base, tuned in _few_at_once(self.dictionary, base_ND, tuned_ND):
            self.read_S += self.dictionary.encode(self.mean_D + tuned - base).sum(dim=0)

    def scores(self) -> dict[str, Tensor]:
        """Score (S,) by ranking."""
        read_S = (self.read_S / max(1, self.change.n)).cpu()
        return {"difference": self.change.mean_S().abs(), "sae-of-difference": read_S}


def _few_at_once(dictionary: Dictionary, base_ND: Tensor, tuned_ND: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs in fp32 on the dictionary's device, in pieces whose latents fit."""
    device, n_rows = dictionary.directions_SD.device, rows_at_once(dictionary.d_sae)
    pieces = (acts_ND.float().to(device).split(n_rows) for acts_ND in (base_ND, tuned_ND))
    return zip(*pieces, strict=True)


@dataclass(frozen=True)
class Candidate:
    """One shortlisted latent."""

    index: int
    strength: float
    rank_by: str


def shortlist(scores_by_ranking: Mapping[str, Tensor], live_S: Tensor, n: int) -> list[Candidate]:
    """Union of the top `n` live latents of each ranking, strongest first.

    Strength is reciprocal rank fusion over the rankings that shortlist the latent, the sum of 1 / (60 + rank): the
    rankings' own units cannot be compared, their ranks can. A score of zero is no evidence and is not shortlisted.
    """
    strength: dict[int, float] = {}
    names: dict[int, list[str]] = {}
    for name, score_S in scores_by_ranking.items():
        eligible_S = torch.where(live_S & (score_S > 0), score_S.double(), -torch.inf)
        order = torch.argsort(eligible_S, descending=True, stable=True)[:n]
        for rank, index in enumerate(order[eligible_S[order] > -torch.inf].tolist(), start=1):
            strength[index] = strength.get(index, 0.0) + 1.0 / (RRF + rank)
            names.setdefault(index, []).append(name)
    found = [Candidate(index, value, "+".join(names[index])) for index, value in strength.items()]
    return sorted(found, key=lambda candidate: (-candidate.strength, candidate.index))
