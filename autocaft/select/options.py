"""How verdicts become decisions."""

from __future__ import annotations

from pydantic import Field

from autocaft.rundir.options import Options, transport


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
    number works too; write `{"sae": {...}, "pca": {...}}` if a layer has both). Its content counts, not its path."""
    person: str = "person"
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
