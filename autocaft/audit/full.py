"""Depth `full`: what would a model learn from a set, and does what is off the purpose change how it behaves?

In: a set's rows, the audit's dictionary, generic text. Out, a function a step: the set's short fine-tuning, what it
changed (components and latents), what that means to the judge, and what the model does without it (full_effect.py).

The decision a reader would question: the control is drawn from the same candidates, matched in number and variance. All
candidates are what the fine-tuning moved most; ablating any of them brings the model nearer to the base.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocaft.audit.full_options import FullOptions
from autocaft.audit.options import AuditConfig, AuditSet, VerdictOptions
from autocaft.audit.read import question
from autocaft.audit.rows import AuditRow, load_rows
from autocaft.audit.run import Audit
from autocaft.data.corpus import Document, load_corpus
from autocaft.data.rows import TaskRow
from autocaft.discover.options import DecomposeOptions, MineOptions
from autocaft.discover.pair import ModelPair
from autocaft.errors import NothingSelectedError
from autocaft.model.directions import DirectionSet, Subspace
from autocaft.records import Direction, Example, Verdict
from autocaft.rundir.files import read_json, read_records, write_json
from autocaft.rundir.runner import StepContext

N_CONTROLS = 3
"""Sets of other directions that the flagged ones are held against."""
N_DRAWS = 4
"""Draws of each, of which the best match is kept: few, or all controls would be one set."""


@dataclass(frozen=True)
class FullSet:
    """One set at depth full, and the folders of its steps."""

    audit: Audit
    chosen: AuditSet

    @property
    def _options(self) -> FullOptions:
        return self.audit.config.full

    def tune(self, context: StepContext) -> None:
        """The short fine-tuning, plain."""
        self._fine_tune(context, "fine-tuning", [])

    def collect(self, context: StepContext) -> None:
        """Activations of the base, and what the fine-tuning changed of them."""
        from autocaft.discover.collect import collect

        rows, _ = self._rows(context)
        if not rows:
            return
        with self._pair(context) as models:
            collect(
                models=models,
                tokenizer=self.audit.tokenizer(),
                rows=rows,
                generic=self.audit.generic,
                layers=self.audit.config.layers,
                options=self._options.collect(self.audit.config.seed),
                out=context.out,
                progress=context.progress,
            )

    def decompose(self, context: StepContext) -> None:
        """Components of the change, the latents that moved most, and the change's mean."""
        from autocaft.discover.decompose import decompose

        rows, _ = self._rows(context)
        if not rows:
            return
        with self._pair(context) as models:
            try:
                decompose(
                    models=models,
                    tokenizer=self.audit.tokenizer(),
                    rows=rows,
                    collected=context.dir_of(f"collect/{self.chosen.name}"),
                    collect_options=self._options.collect(self.audit.config.seed),
                    options=self._dictionary(context),
                    out=context.out,
                    progress=context.progress,
                )
            except NothingSelectedError:
                context.progress.say(f"{self.chosen.name}: the fine-tuning changed nothing at these layers")
                return
        _add_means(context.out, context.dir_of(f"collect/{self.chosen.name}"))

    def windows(self, context: StepContext) -> None:
        """Windows of text in which each direction is strong."""
        from autocaft.discover.mine import mine

        if self._directions(context) is None:
            return
        rows, _ = self._rows(context)
        mine(
            tokenizer=self.audit.tokenizer(),
            rows=rows,
            collected=context.dir_of(f"collect/{self.chosen.name}"),
            decomposed=context.dir_of(f"decompose/{self.chosen.name}"),
            decompose_options=self._dictionary(context),
            options=MineOptions(),
            out=context.out,
            progress=context.progress,
        )

    def meanings(self, context: StepContext) -> None:
        """The judge on each direction, held against the purpose, and a concept or the policy."""
        from autocaft.judge.stage import judge_directions, make_judge

        found = self._directions(context)
        if found is None:
            return
        asked = question(self.chosen, self.audit.config.judge, self.audit.policy)
        base = self.audit.base, self.audit.tokenizer
        judge_directions(
            directions=found.directions,
            examples=read_records(context.dir_of(f"windows/{self.chosen.name}") / "examples.jsonl", Example),
            options=asked,
            judge=make_judge(asked, store=context.opened, local_model=lambda: (base[0](), base[1]())),
            out=context.out,
            progress=context.progress,
        )

    def ablated(self, context: StepContext) -> None:
        """CAFT: the same fine-tuning with the flagged directions ablated."""
        flagged, _ = self._subspaces(context, *self._choice(context))
        if flagged:
            self._fine_tune(context, "flagged directions ablated", flagged)

    def control(self, context: StepContext) -> None:
        """The same with the first set of other directions."""
        _, controls = self._subspaces(context, *self._choice(context))
        if controls:
            self._fine_tune(context, "other directions ablated", controls[0])

    def effect(self, context: StepContext) -> None:
        """What the fine-tuned model does on generic text, and on held-out rows, without the flagged directions."""
        from autocaft.audit.full_effect import Measure, compare

        name, (ids, drawn) = self.chosen.name, self._choice(context)
        flagged, controls = self._subspaces(context, ids, drawn)
        rows, held_out = self._rows(context)
        found: dict[str, Any] = {"set": name, "flagged": ids, "controls": drawn, "measured": False, "caft": None}
        if flagged and controls and held_out:
            how = self._options.tokens_per_batch
            measure = Measure.of(self.audit.tokenizer(), self._probes(), rows, held_out, how)
            tuned = self._trained(context.dir_of(f"tune/{name}"))
            moved = self._moved(context)
            found |= {"measured": True, **compare(measure, tuned, flagged, controls, moved, name, context.progress)}
            found["asks"] = dict(zip((row.id for row in [*rows, *held_out]), found["asks"], strict=True))
            if self._options.caft:
                del tuned
                models = {arm: self._trained(context.dir_of(f"{arm}/{name}")) for arm in ("ablated", "control")}
                found["caft"] = measure.retrained(models, found)
        write_json(context.out / "effect.json", found)

    def _rows(self, context: StepContext) -> tuple[list[TaskRow], list[TaskRow]]:
        """Rows to train on and held-out ones; none of a set that cannot be read."""
        folder = context.dir_of(f"rows/{self.chosen.name}")
        if read_json(folder / "summary.json")["unread"] is not None:
            return [], []
        rows = [_task_row(row) for row in load_rows(folder) if row.answer.strip()]
        every = self._options.every_held_out
        return [r for r in rows if int(r.id) % every], [r for r in rows if int(r.id) % every == 0]

    def _probes(self) -> list[Document]:
        """Generic text that nothing else reads."""
        config, n = self.audit.config, self.audit.config.n_generic
        return load_corpus(config.corpus, n_documents=n + self._options.n_probes, seed=config.seed)[n:]

    def _choice(self, context: StepContext) -> tuple[list[str], list[list[str]]]:
        """Ids of the flagged directions, and those of each control."""
        from autocaft.discover.decompose import load_covariances
        from autocaft.select.controls import draw_matched

        name, found = self.chosen.name, self._directions(context)
        path = context.dir_of(f"meanings/{name}") / "verdicts.jsonl"
        if found is None or not path.is_file():
            return [], []
        flagged = flag(found, read_records(path, Verdict), self._moved(context), self.audit.config, self.chosen)
        if not flagged:
            return [], []
        how: dict[str, Any] = {
            "n_draws": N_DRAWS,
            "vectors_ND": found.vectors_ND,
            "covariance_by_layer": load_covariances(context.dir_of(f"decompose/{name}")),
        }
        taken = [direction for direction in found.directions if direction.id in set(flagged)]
        draws = [
            draw_matched(found.directions, taken, seed=(self.audit.config.seed, i), **how) for i in range(N_CONTROLS)
        ]
        return flagged, [ids for ids, _ in draws if ids]

    def _moved(self, context: StepContext) -> dict[int, Tensor]:
        """Mean change (D,) of the activations by layer, tuned minus base."""
        from autocaft.discover.collect import load_stats

        differences = load_stats(context.dir_of(f"collect/{self.chosen.name}")).differences
        return {layer: fitter.mean_D.float().cpu() for layer, fitter in differences.items()}

    def _subspaces(
        self, context: StepContext, flagged: Sequence[str], controls: Sequence[Sequence[str]]
    ) -> tuple[list[Subspace], list[list[Subspace]]]:
        """What is ablated: of the flagged directions, and of each control; towards the base's mean on generic text."""
        from autocaft.discover.collect import load_stats
        from autocaft.discover.cross import load_cross
        from autocaft.model.directions import build_subspaces

        found = self._directions(context)
        if not flagged or found is None:
            return [], []
        if self._options.basis == "covariance":
            found = replace(found, vectors_ND=load_cross(context.dir_of(f"windows/{self.chosen.name}")))
        means = load_stats(context.dir_of(f"collect/{self.chosen.name}")).generic_mean
        return build_subspaces(found, flagged, means), [build_subspaces(found, ids, means) for ids in controls]

    def _fine_tune(self, context: StepContext, label: str, subspaces: Sequence[Subspace]) -> None:
        from autocaft.model.load import load_model
        from autocaft.train.sft import fine_tune

        rows, _ = self._rows(context)
        if not rows:
            return
        summary = fine_tune(
            load_model(self.audit.weights, dtype=self._dtype),  # changed in place: not the audit's own copy
            self.audit.tokenizer(),
            rows,
            self._options.tune,
            seed=self.audit.config.seed,
            out=context.out,
            progress=context.progress,
            label=f"{self.chosen.name}, {label}",
            subspaces=subspaces,
        )
        write_json(context.out / "summary.json", summary)

    @contextmanager
    def _pair(self, context: StepContext) -> Iterator[ModelPair]:
        """Base and tuned for as long as the context is open."""
        folder = context.dir_of(f"tune/{self.chosen.name}")
        models = ModelPair(self.audit.base, lambda: self._trained(folder))
        try:
            yield models
        finally:
            models.release()

    def _trained(self, folder: Path) -> Any:
        from autocaft.model.load import load_trained

        return load_trained(self.audit.weights, folder / "model", dtype=self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.audit.config.dtype)
        return dtype

    def _dictionary(self, context: StepContext) -> DecomposeOptions:
        config = self.audit.config
        trained = str(context.dir_of("dictionary") / "sae" / "L{layer}")
        sae = trained if config.dictionary.sae == "train" else config.dictionary.sae
        return self._options.decompose(sae, config.dictionary.always_on_share, config.seed)

    def _directions(self, context: StepContext) -> DirectionSet | None:
        """What the fine-tuning changed; None if nothing."""
        folder = context.dir_of(f"decompose/{self.chosen.name}")
        return DirectionSet.load(folder) if (folder / "directions.jsonl").is_file() else None


def _add_means(decomposed: Path, collected: Path) -> None:
    """Put the mean difference tuned minus base before each layer's candidates. What all rows of a set share is there:
    components are of the centred difference and cannot show it."""
    from autocaft.discover.collect import load_stats
    from autocaft.discover.decompose import linear_extents, load_covariances, load_extents, save_extents
    from autocaft.discover.shards import ShardReader

    found, (low_N, high_N), stats = DirectionSet.load(decomposed), load_extents(decomposed), load_stats(collected)
    covariances, reader = load_covariances(decomposed), ShardReader(collected / "acts")
    directions, vectors, lows, highs = [], [], [], []
    for layer in reader.layers:
        mean_D = stats.differences[layer].mean_D.float()
        size = float(mean_D.norm())
        if size > 0 and layer in covariances:
            unit_D = mean_D / size
            low_1, high_1, _ = linear_extents(reader, layer, unit_D[None], stats.generic_mean[layer])
            variance = float(unit_D @ covariances[layer] @ unit_D)
            directions.append(Direction(f"L{layer}.mean", layer, "given", 0, size, "mean-difference", variance))
            vectors.append(unit_D[None])
            lows.append(low_1)
            highs.append(high_1)
        own = [row for row, direction in enumerate(found.directions) if direction.layer == layer]
        directions += [found.directions[row] for row in own]
        vectors.append(found.vectors_ND[own])
        lows.append(low_N[own])
        highs.append(high_N[own])
    save_extents(decomposed, torch.cat(lows), torch.cat(highs))
    DirectionSet(tuple(directions), torch.cat(vectors)).save(decomposed)


def _task_row(row: AuditRow) -> TaskRow:
    name = str(row.number)
    return TaskRow(name, row.prompt, row.answer, None, name, f"{row.prompt_text} {row.answer}", row.line)


def flag(
    found: DirectionSet,
    verdicts: Sequence[Verdict],
    moved_by_layer: Mapping[int, Tensor],
    config: AuditConfig,
    chosen: AuditSet,
) -> list[str]:
    """The directions that training amplified and whose meaning is verified and off the purpose or unwanted: the most so
    first, of equal ones the one that was moved most, so many a layer.

    Args:
        moved_by_layer: mean difference (D,) tuned minus base. A direction is amplified if it points towards the pole
            that the judge rated.
    """
    vector = dict(zip((direction.id for direction in found.directions), found.vectors_ND, strict=True))
    layer = {direction.id: direction.layer for direction in found.directions}
    rated: dict[str, float] = {}
    for verdict in verdicts:
        name, rating = verdict.direction_id, rate(verdict, config, chosen)
        sign = -1.0 if verdict.pole == "bottom" else 1.0
        if is_flagged(rating, config.verdict) and sign * float(vector[name] @ moved_by_layer[layer[name]]) > 0:
            rated[name] = max(rating.values())
    rank = found.row_by_id
    ordered = sorted(rated, key=lambda name: (layer[name], -rated[name], rank[name]))
    return [
        name
        for _, own in itertools.groupby(ordered, key=lambda name: layer[name])
        for name in itertools.islice(own, config.full.n_directions)
    ]


def rate(verdict: Verdict, config: AuditConfig, chosen: AuditSet) -> dict[str, float]:
    """How far off the purpose, and how unwanted where that was asked; empty without a description that tells held-out
    windows apart."""
    if verdict.detection_low is None or verdict.detection_low <= 0.5:
        return {}
    rated = {} if verdict.wanted_relevance is None else {"off_purpose": 100.0 - verdict.wanted_relevance}
    was_asked = chosen.concept is not None or config.judge.judge != "offline"
    return rated | ({"unwanted": verdict.relevance} if was_asked and verdict.relevance is not None else {})


def is_flagged(rating: Mapping[str, float], limits: VerdictOptions) -> bool:
    """Off the purpose or unwanted, by the limits of the screen's verdict."""
    return rating.get("off_purpose", 0.0) >= limits.off_purpose or rating.get("unwanted", 0.0) >= limits.unwanted
