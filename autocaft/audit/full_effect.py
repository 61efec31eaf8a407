"""The causal check: does what was flagged change how the model behaves elsewhere, and may the set do without it?

In: a model that was fine-tuned on one set, the subspaces of the flagged directions and of others (the controls),
generic text, held-out rows of the set. Out: what the fine-tuning added to the model's behaviour on generic text,
KL(model || base) in nats a token, as it is and where neither model may use a subspace; its loss on the held-out rows;
95 % intervals of the differences over documents and rows; and what follows for the verdict.

The decision a reader would question: behaviour is the whole next-token distribution on text that has nothing to do
with the set. Nobody has to say beforehand what a hidden concept would make a model do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autocaft.audit.full_options import FullOptions
from autocaft.audit.options import AuditConfig
from autocaft.audit.outcome import place
from autocaft.data.corpus import Document
from autocaft.data.encode import Encoded, batches, encode
from autocaft.data.rows import TaskRow
from autocaft.discover.collect import encode_rows
from autocaft.discover.pair import device_of
from autocaft.evaluate.damage import token_nats
from autocaft.model.directions import Subspace
from autocaft.model.hooks import ablate
from autocaft.model.load import as_base
from autocaft.rundir.progress import Progress
from autocaft.stats import cluster_bootstrap
from autocaft.stats.ratio import seed_cluster_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MAX_PROBE_TOKENS = 256


@dataclass(frozen=True)
class Measure:
    """The texts that models are measured on."""

    probes: Sequence[Encoded]
    held_out: Sequence[Encoded]
    pad_id: int
    tokens_per_batch: int

    @classmethod
    def of(
        cls, tokenizer: Any, probes: Sequence[Document], held_out: Sequence[TaskRow], tokens_per_batch: int
    ) -> Measure:
        """Encode them; a document without a token of its own after its prompt is left out."""
        chat = tokenizer.chat_template is not None
        encoded = [encode(tokenizer, d.prompt, d.text, chat=chat, max_tokens=MAX_PROBE_TOKENS) for d in probes]
        kept = [text for text in encoded if len(text.input_ids) > max(1, text.n_prompt)]
        return cls(kept, encode_rows(tokenizer, held_out), tokenizer.pad_token_id or 0, tokens_per_batch)

    @torch.no_grad()
    def added(self, model: Any, subspaces: Sequence[Subspace] = ()) -> Array:
        """KL(model || base) of each document, nats a token, both without the subspaces."""
        found = np.zeros(len(self.probes))
        with _without(model, subspaces):
            for numbers, batch in self._batches(model, self.probes):
                tuned_BTV = model(**batch.inputs).logits
                with as_base(model) as base:
                    base_BTV = base(**batch.inputs).logits
                # the base in the model's place, since the divergence is taken the other way round
                _, kl_BT, counted_BT = token_nats(base_BTV, tuned_BTV, batch)
                found[numbers] = (kl_BT.sum(1) / counted_BT.sum(1).cpu()).numpy()
        return found

    @torch.no_grad()
    def losses(self, model: Any, subspaces: Sequence[Subspace] = ()) -> Array:
        """Mean cross-entropy of each held-out answer, nats a token, without the subspaces."""
        found = np.zeros(len(self.held_out))
        with _without(model, subspaces):
            for numbers, batch in self._batches(model, self.held_out):
                logits_BTV = model(**batch.inputs).logits[:, :-1].float()
                labels_BT, answer_BT = batch.input_ids_BT[:, 1:], batch.answer_mask_BT[:, 1:]
                nats_BT = nn.functional.cross_entropy(logits_BTV.transpose(1, 2), labels_BT, reduction="none")
                found[numbers] = ((nats_BT * answer_BT).sum(1) / answer_BT.sum(1).clamp_min(1)).cpu().numpy()
        return found

    def retrained(self, models: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        """The models that were fine-tuned with the flagged directions ablated (CAFT) and with others, ablation removed,
        beside the plain one."""
        added = {arm: self.added(model) for arm, model in models.items()}
        losses = {arm: float(self.losses(model).mean()) for arm, model in models.items()}
        plain = np.array(found["added_by_document"])
        return {
            "added": {arm: float(values.mean()) for arm, values in added.items()},
            "loss": losses,
            "effect": interval(plain - added["ablated"]),
            "beyond_control": interval(added["control"] - added["ablated"]),
        }

    def _batches(self, model: Any, encoded: Sequence[Encoded]) -> Iterator[Any]:
        size = self.tokens_per_batch
        return batches(encoded, tokens_per_batch=size, pad_id=self.pad_id, device=device_of(model))


@contextmanager
def _without(model: Any, subspaces: Sequence[Subspace]) -> Iterator[None]:
    if not subspaces:
        yield
        return
    with ablate(model, subspaces, mode="mean") as ablation:
        ablation.allows_any_first = True  # nobody learns from these texts
        yield


def compare(
    measure: Measure,
    tuned: Any,
    flagged: Sequence[Subspace],
    controls: Sequence[Sequence[Subspace]],
    label: str,
    progress: Progress,
) -> dict[str, Any]:
    """Figures of the tuned model as it is, without the flagged directions, and without others (mean over controls)."""
    with progress.task(f"behaviour after {label}", 3 + len(controls), "passes") as advance:
        plain = measure.added(tuned)
        advance(1)
        without = measure.added(tuned, flagged)
        advance(1)
        others = np.zeros(len(plain))
        for control in controls:
            others += measure.added(tuned, control) / len(controls)
            advance(1)
        with as_base(tuned) as base:
            losses = {"base": measure.losses(base)}
        losses |= {"tuned": measure.losses(tuned), "flagged": measure.losses(tuned, flagged)}
        advance(1)
    gains = {arm: (losses["base"] - losses[arm]).tolist() for arm in ("tuned", "flagged")}
    n_rows = len(gains["tuned"])
    kept = seed_cluster_ratio(gains["flagged"], gains["tuned"], [0] * n_rows, range(n_rows))
    return {
        "n_probes": len(plain),
        "n_held_out": n_rows,
        "added": {"tuned": plain.mean(), "flagged": without.mean(), "control": others.mean()},
        "added_by_document": plain.round(6).tolist(),
        "effect": interval(plain - without),
        "beyond_control": interval(others - without),
        "loss": {arm: float(values.mean()) for arm, values in losses.items()},
        "kept": None if kept is None else asdict(kept),
    }


def interval(differences: Array) -> dict[str, Any]:
    """Mean with its 95 % interval over documents."""
    return asdict(cluster_bootstrap(differences.tolist(), range(len(differences))))


def is_cause(effect: Mapping[str, Any], options: FullOptions) -> bool:
    """What `full_rule` says."""
    if not effect["measured"] or effect["kept"] is None:
        return False
    is_above = all((effect[key]["low"] or 0.0) > 0 for key in ("effect", "beyond_control"))
    return is_above and bool(effect["kept"]["value"] >= options.min_kept)


def full_rule(config: AuditConfig) -> list[str]:
    """The rule of depth full as sentences, with this audit's numbers."""
    options, limits = config.full, config.verdict
    return [
        f"Depth full: each set that is no reference is trained on (LoRA, {options.epochs:g} passes over its rows that "
        f"were looked at but one in {options.every_held_out}). Of the {options.n_candidates} latents and "
        f"{options.n_pcs} components a layer that moved most, up to {options.n_directions} a layer are flagged: "
        "training amplified them, their description tells held-out windows apart better than chance, and the judge "
        f"puts them {limits.off_purpose:g} or more off the purpose, or gives {limits.unwanted:g} or more to their "
        "being unwanted where it was asked.",
        "block at depth full, also without a named concept and by the offline judge: where neither model may use the "
        "flagged directions, the training has added less to what the model does on generic text (KL from the base, "
        "nats a token) than as it is, and less than where neither may use as many of the other candidates: the 95 % "
        f"interval over documents is above zero for both; and at least {options.min_kept:.0%} of what the training "
        "gained on the set's held-out rows is left without them.",
    ]


def add_effects(
    sets: Sequence[dict[str, Any]], effects: Mapping[str, Mapping[str, Any]], config: AuditConfig
) -> list[dict[str, Any]]:
    """Give each set its causal check (`full`; None if none was made), block what it finds, and rank anew."""
    for item in sets:
        item["full"] = effect = effects.get(item["name"])
        if effect is not None and is_cause(effect, config.full):
            item["outcome"] = "block"
            item["why"] = (
                f"training on it amplifies {len(effect['flagged'])} directions that are off its purpose; they carry "
                f"{effect['effect']['value']:.2g} of {effect['added']['tuned']:.2g} nats a token that it adds elsewhere"
            )
    return sorted(sets, key=place)
