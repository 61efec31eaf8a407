"""How verdicts become decisions."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from autocaft.rundir.options import Options, fingerprint_options, transport


class SearchOptions(Options):
    """Short trainings that set the dials of arms `caft-SOURCE-searched`; without such an arm none is made."""

    layer_sets: Literal["nested"] | tuple[tuple[int, ...], ...] = "nested"
    """At which of `layers` a trial ablates. `nested`: all of them, and every part that begins with the first of them or
    ends with the last; or lists, `[[14], [14, 20]]`."""
    shares: tuple[float, ...] = (1.0, 0.5)
    """How much of each layer's choice, the most relevant first: it sets how many directions are ablated."""
    strengths: tuple[float, ...] = (1.0,)
    """Share of the projection that is removed, in the place of `train.strength`. Every layer set is tried with every
    share and every strength."""
    share_of_steps: float = Field(default=0.5, gt=0, le=1)
    """Length of a trial, as a share of `tune.epochs`. A plain training of the same length is what trials are held
    against."""
    n_rows: int = Field(default=120, ge=2)
    """Rows of the split `val` on which a trial's loss is taken. Without that split as many training rows, a fifth of
    them at most, which no trial is trained on: whole templates."""
    n_documents: int = Field(default=40, ge=2)
    """Generic documents on which a trial's KL to the base model is taken; those of `evaluate` are others."""
    max_loss_rise: float = Field(default=0.25, ge=0)
    """Guard: a trial's loss on those rows may exceed the plain training's by so many nats a labelled token. Whoever
    cannot take the short cut learns slower; between two options, chance is 0.69."""
    max_kl_rise: float = Field(default=0.02, ge=0)
    """Guard: its KL to the base model may exceed the plain training's by so many nats a token."""
    keep_models: bool = transport(False)
    """Keep the weights of every trial; nothing reads them once it is measured."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("layer_sets", "shares", "strengths"):
            values = getattr(self, key)
            if not values or (values != "nested" and len(set(values)) < len(values)):
                raise ValueError(f"`{key}` must name at least one, and none twice")
        sets = () if self.layer_sets == "nested" else self.layer_sets
        if any(not layers or len(set(layers)) < len(layers) for layers in sets):
            raise ValueError("each of `layer_sets` must name at least one layer, and none twice")
        for key in ("shares", "strengths"):
            if not all(0 < value <= 1 for value in getattr(self, key)):
                raise ValueError(f"`{key}` are above 0 and at most 1")
        return self

    @property
    def trying(self) -> dict[str, Any]:
        """What one trial depends on besides its dials."""
        return {name: getattr(self, name) for name in ("share_of_steps", "n_rows", "n_documents")}

    @property
    def guards(self) -> dict[str, float]:
        """What a trial must not exceed."""
        return {name: getattr(self, name) for name in ("max_loss_rise", "max_kl_rise")}


SOMEBODY = "person"
"""Who made a choice if nobody says."""


class SelectOptions(Options):
    """Which candidates are ablated, and how the control sets are drawn."""

    threshold: float = Field(default=50.0, ge=0, le=100)
    """A direction is selected if its relevance to the undesired concept (0-100) is at least this."""
    margin: float = Field(default=0.0, ge=0, le=100)
    """The relevance must also exceed the relevance to the wanted concept by at least this many points."""
    min_detection: float | None = Field(default=None, ge=0, le=1)
    """The description must tell held-out windows apart with at least this balanced accuracy. Not set: better than
    chance, so the low end of its 95 % interval must be above 0.5, which 1 in 40 meaningless descriptions is."""
    per_layer_cap: int = Field(default=20, ge=1)
    """At most this many directions a layer and source, the most relevant first."""
    file: str | None = transport(None)
    """A person's choice as JSON, `{"model.layers.14": [3, 7]}`: index of each chosen candidate, by layer (a bare layer
    number works too; write `{"sae": {...}, "pca": {...}}` if a layer has both). What the person read and would not
    ablate may stand under `"keep"` in the same way: an arm `hybrid` keeps that where the judge was not sure. A file
    that no person made says so, `"by": "simulated:NAME"`, and is never called human. Its content counts, not its
    path."""
    person: str = SOMEBODY
    """Who made the choice in `file`: decisions are recorded as `human:<person>`."""
    oracle_words: str | None = transport(None)
    """A file of words, one a line, for the oracle arms: a list that knows the answer. Its content
    counts, not its path."""
    oracle_share: float = Field(default=0.5, gt=0, le=1)
    """The oracle takes a direction if the strongest token of at least this share of a pole's windows is in its list."""
    random_seed: int = Field(default=0, ge=0)
    """Seed of the control draws; each training seed still gets draws of its own."""
    control_draws: int = Field(default=500, ge=1)
    """Random sets drawn a layer; the one nearest to the chosen set in variance removed becomes the control."""
    search: SearchOptions = Field(default_factory=SearchOptions)
    """How the dials of arms `caft-SOURCE-searched` are found."""

    @property
    def deciding(self) -> dict[str, Any]:
        """What the judge's and the oracle's decisions depend on. The search, which only says how much of them is
        ablated, and the person have steps of their own."""
        found = {key: value for key, value in fingerprint_options(self).items() if not key.startswith("search.")}
        return found | {"person": SOMEBODY}
