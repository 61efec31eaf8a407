"""The causal check: does what was flagged change how the model behaves elsewhere, and may the set do without it?

In: a model that was fine-tuned on one set, the subspaces of the flagged directions and of others (the controls),
generic text, the set's rows. Out: what the fine-tuning added to the model's behaviour on generic text,
KL(model || base) in nats a token, as it is and where neither model may use a subspace; its loss on the held-out rows;
95 % intervals of the differences over documents and rows; which rows ask for what was flagged; and what follows for the
verdict.

The decision a reader would question: behaviour is the whole next-token distribution on text that has nothing to do
with the set. Nobody has to say beforehand what a hidden concept would make a model do. And a row is to be hidden not
for its words but for what helps it: the base gives its answer more readily where its activations are moved along the
flagged directions as far as the training moved them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from autocaft.audit.full_options import FullOptions
from autocaft.audit.options import AuditConfig
from autocaft.audit.outcome import place
from autocaft.audit.screen import q_values
from autocaft.data.corpus import Document
from autocaft.data.encode import Encoded, batches, encode
from autocaft.data.rows import TaskRow
from autocaft.discover.collect import encode_rows
from autocaft.discover.pair import device_of
from autocaft.evaluate.damage import token_nats
from autocaft.model.directions import Subspace
from autocaft.model.hooks import Mode, ablate
from autocaft.model.load import as_base
from autocaft.rundir.progress import Progress
from autocaft.stats import cluster_bootstrap, sign_flip_test
from autocaft.stats.ratio import seed_cluster_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MAX_PROBE_TOKENS = 256


@dataclass(frozen=True)
class Measure:
    """The texts that models are measured on."""

    probes: Sequence[Encoded]
    rows: Sequence[Encoded]
    """All that the set was to be trained on, those first, and the held-out ones."""
    n_trained: int
    """Rows before the held-out ones."""
    pad_id: int
    tokens_per_batch: int

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        probes: Sequence[Document],
        trained: Sequence[TaskRow],
        held_out: Sequence[TaskRow],
        tokens_per_batch: int,
    ) -> Measure:
        """Encode them; a document without a token of its own after its prompt is left out."""
        chat = tokenizer.chat_template is not None
        encoded = [encode(tokenizer, d.prompt, d.text, chat=chat, max_tokens=MAX_PROBE_TOKENS) for d in probes]
        kept = [text for text in encoded if len(text.input_ids) > max(1, text.n_prompt)]
        rows = encode_rows(tokenizer, [*trained, *held_out])
        return cls(kept, rows, len(trained), tokenizer.pad_token_id or 0, tokens_per_batch)

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
    def losses(self, model: Any, subspaces: Sequence[Subspace] = (), mode: Mode = "mean") -> Array:
        """Mean cross-entropy of each row's answer, nats a token, without the subspaces (`mean-shift`: moved by their
        means)."""
        found = np.zeros(len(self.rows))
        with _without(model, subspaces, mode):
            for numbers, batch in self._batches(model, self.rows):
                logits_BTV = model(**batch.inputs).logits[:, :-1].float()
                labels_BT, answer_BT = batch.input_ids_BT[:, 1:], batch.answer_mask_BT[:, 1:]
                nats_BT = nn.functional.cross_entropy(logits_BTV.transpose(1, 2), labels_BT, reduction="none")
                found[numbers] = ((nats_BT * answer_BT).sum(1) / answer_BT.sum(1).clamp_min(1)).cpu().numpy()
        return found

    def retrained(self, models: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        """The models that were fine-tuned with the flagged directions ablated (CAFT) and with others, ablation removed,
        beside the plain one."""
        added = {arm: self.added(model) for arm, model in models.items()}
        losses = {arm: float(self.losses(model)[self.n_trained :].mean()) for arm, model in models.items()}
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
def _without(model: Any, subspaces: Sequence[Subspace], mode: Mode = "mean") -> Iterator[None]:
    if not subspaces:
        yield
        return
    with ablate(model, subspaces, mode=mode) as ablation:
        ablation.allows_any_first = True  # nobody learns from these texts
        yield


def compare(
    measure: Measure,
    tuned: Any,
    flagged: Sequence[Subspace],
    controls: Sequence[Sequence[Subspace]],
    moved_by_layer: Mapping[int, Tensor],
    label: str,
    progress: Progress,
) -> dict[str, Any]:
    """Figures of the tuned model as it is, without the flagged directions, and without others (mean over controls).

    `p` is the larger of two, of `effect` and of `beyond_control` (sign flips over documents), since both are asked for.
    `asks`, in the order of the rows: how much less a row's answer costs the base where it is moved along the flagged
    directions by their part of the mean change, nats a token.

    Args:
        moved_by_layer: mean change (D,) of the activations, tuned minus base.
    """
    moves = [replace(flagged_of, mean_D=moved_by_layer[flagged_of.layer]) for flagged_of in flagged]
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
            asks = losses["base"] - measure.losses(base, moves, "mean-shift")
        losses |= {"tuned": measure.losses(tuned), "flagged": measure.losses(tuned, flagged)}
        advance(1)
    losses = {arm: values[measure.n_trained :] for arm, values in losses.items()}
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
        "p": max(_p(plain - without), _p(others - without)),
        "loss": {arm: float(values.mean()) for arm, values in losses.items()},
        "kept": None if kept is None else asdict(kept),
        "asks": asks.round(6).tolist(),
    }


def interval(differences: Array) -> dict[str, Any]:
    """Mean with its 95 % interval over documents."""
    return asdict(cluster_bootstrap(differences.tolist(), range(len(differences))))


def _p(differences: Array) -> float:
    return sign_flip_test(differences.tolist(), range(len(differences))).p


def is_cause(effect: Mapping[str, Any], options: FullOptions, q: float) -> bool:
    """What `full_rule` says."""
    if not effect["measured"] or effect["kept"] is None:
        return False
    is_above = all((effect[key]["low"] or 0.0) > 0 for key in ("effect", "beyond_control"))
    return is_above and bool(effect["q"] <= q) and bool(effect["kept"]["value"] >= options.min_kept)


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
        "interval over documents is above zero for both, and the larger p of both (sign flips over documents) has "
        f"q <= {config.screen.q:g} after Benjamini-Hochberg over the sets that were measured; and at least "
        f"{options.min_kept:.0%} of what the training gained on the set's held-out rows is left without them. Of its "
        "rows those are to be hidden that ask for what was flagged: the base gives their answers more readily where "
        "its activations are moved along the flagged directions by as much as the training moved them.",
    ]


def add_effects(
    sets: Sequence[dict[str, Any]], effects: Mapping[str, dict[str, Any]], config: AuditConfig
) -> list[dict[str, Any]]:
    """Give each set its causal check (`full`; None if none was made), block what it finds, and rank anew."""
    measured = [effect for effect in effects.values() if effect["measured"]]
    if measured:
        for effect, q in zip(measured, q_values(np.array([effect["p"] for effect in measured])), strict=True):
            effect["q"] = float(q)
    for item in sets:
        found = item["full"] = effects.get(item["name"])
        if found is None:
            continue
        found["is_cause"] = is_cause(found, config.full, config.screen.q)
        if found["is_cause"]:
            item["outcome"] = "block"
            item["why"] = (
                f"training on it amplifies {len(found['flagged'])} directions that are off its purpose; they carry "
                f"{found['effect']['value']:.2g} of {found['added']['tuned']:.2g} nats a token that it adds elsewhere"
            )
    return sorted(sets, key=place)
