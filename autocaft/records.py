"""The records that pass between stages: one JSON line each, no torch.

Every artifact a stage writes for the next one to read is a list of these. They are frozen, because a record that
changes after it was written can no longer be traced to the stage that made it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

Source = Literal["pca", "sae", "planted", "random", "given"]
Pole = Literal["top", "bottom", "middle", "random", "near"]
Purpose = Literal["describe", "verify"]
Hooks = Literal["on", "off"]


@dataclass(frozen=True, slots=True)
class Record:
    """Base of all records: conversion to and from one JSON object."""

    def to_row(self) -> dict[str, Any]:
        """This record as plain JSON types, fields in order of declaration."""
        return dataclasses.asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Rebuild a record from its JSON object.

        Raises:
            ValueError: a field is missing or unknown (the file was written by another version).
        """
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(row) - names)
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}; it has {sorted(names)}")
        try:
            return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
        except TypeError as error:
            raise ValueError(f"{cls.__name__} cannot be built from {sorted(row)}: {error}") from error


@dataclass(frozen=True, slots=True)
class Direction(Record):
    """One unit vector in the residual stream after decoder block `layer`."""

    id: str
    """`L14.latent1483` or `L20.pc3`."""
    layer: int
    """0-based decoder block."""
    source: Source
    index: int
    """The latent's number in its dictionary, or the PC's rank by variance (from 0)."""
    strength: float
    """What `rank_by` measured; larger is stronger."""
    rank_by: str
    """The rankings this direction was shortlisted by, joined with `+`."""
    variance: float = 0.0
    """Variance of the base model's activations along this direction, on the mining texts."""


@dataclass(frozen=True, slots=True)
class Example(Record):
    """A window of tokens around the strongest projection of one document on one direction."""

    direction_id: str
    pole: Pole
    split: Purpose
    """`describe` windows are shown to whoever names the direction, `verify` windows check it. No shared document."""
    doc_id: str
    tokens: tuple[str, ...]
    projections: tuple[float, ...]
    """Projection of each token's (centred) activation on the direction, or the latent's activation."""


@dataclass(frozen=True, slots=True)
class Evidence(Record):
    """What is known of one direction without a judge, from training rows and generic text alone."""

    direction_id: str
    fires: dict[str, dict[str, list[float]]]
    """Pole -> part of the texts -> share of its tokens, and of its documents, in which the direction is active: a
    latent above zero, any other beyond half of its extent."""
    promotes: tuple[str, ...]
    """Tokens whose logits the direction raises most, through the final norm (logit lens), strongest first."""
    suppresses: tuple[str, ...]
    """Tokens whose logits it lowers most."""
    loss_change: float | None = None
    """Nats that the tuned model's loss on the answers rises by when this direction alone is ablated; None if that was
    not measured."""
    loss_low: float | None = None
    loss_high: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict(Record):
    """What a judge says about one direction. Scores are 0-100, or None with the reason in `unscored_reason`."""

    direction_id: str
    pole: Pole
    """The pole with the larger relevance: ablation is sign-free, so a PC counts with that one."""
    description: str
    """Of that pole."""
    confidence: float | None
    pole_relation: str
    """How the two poles relate: `single` (a latent), `opposite`, `unrelated`, `unclear`."""
    detection: float | None
    """Balanced accuracy (0-1) of the description on held-out windows; .5 is chance."""
    detection_low: float | None
    detection_high: float | None
    discrimination: float | None
    """1 if the description picks its own of four held-out texts (chance .25), else 0; None if not asked."""
    relevance: float | None
    """0-100: is this the undesired concept?"""
    wanted_relevance: float | None
    """0-100: is this the concept the task needs?"""
    quotes: tuple[str, ...]
    """Verbatim parts of the shown windows that support the description."""
    unscored_reason: str | None
    rationale: str
    judge: str
    prompt_hash: str
    ratings: tuple[float, ...] = ()
    """The single ratings whose mean is the relevance: asked again near the threshold, or by each judge of a panel."""
    abstains: bool = False
    """The judge is not sure: a rating lies near the threshold, or two ratings disagree. A person should look first."""
    doubt: str = ""
    """Why it abstains, in words."""
    other_description: str = ""
    """Of the pole with the smaller relevance; empty where there is one pole."""
    other_relevance: float | None = None


@dataclass(frozen=True, slots=True)
class Decision(Record):
    """Whether a direction is ablated, who said so and why. Append-only: the last decision on a direction counts."""

    direction_id: str
    ablate: bool
    by: str
    """`auto:<rule>`, `human:<name>`, `simulated:<how>`, `oracle:<list>` or `control:<kind>`. Only a person's choice is
    `human`."""
    reason: str
    at: str
    """UTC, ISO 8601."""


@dataclass(frozen=True, slots=True)
class Metric(Record):
    """One figure of one arm, with its 95 % interval."""

    arm: str
    task: str
    split: str
    metric: str
    """`accuracy`, `perplexity`, `kl_to_base`."""
    hooks: Hooks
    """`on`: measured with the ablation still in place; `off`: the model as it is used."""
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    """Rows (accuracy) or tokens (perplexity, KL) behind the value."""
    n_unscored: int
    seed: int


@dataclass(frozen=True, slots=True)
class Grade(Record):
    """What a grader says about one answer under one rubric: a number, a label, or neither with the reason."""

    answer_id: str
    rubric: str
    """`aligned`, `coherent` or `vulnerable`, or a measure of a file of rules."""
    value: float | None
    """0-100, weighted by the probabilities of the reply's first token where a model gives them; by a rule 100 or 0."""
    label: str | None
    """`CODE`, `REFUSAL` or `NOT VALID`: an answer of the grader that is no number."""
    unscored_reason: str | None
    """Why there is neither a number nor a label."""
    judge: str
    prompt_hash: str
