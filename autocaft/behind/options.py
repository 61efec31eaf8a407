"""Options of `[behind]` and `[causes]`. Both are off unless asked for: they need to know the cue."""

from __future__ import annotations

from pydantic import Field

from autocaft.rundir.options import Options, transport


class BehindOptions(Options):
    """What is left of the cue in each arm, and what the arm learned instead."""

    enabled: bool = False
    """Measure it; needs `data.cues`."""
    splits: tuple[str, ...] = Field(("id",), min_length=1)
    """Splits whose rows the probe reads."""
    n_folds: int = Field(5, ge=2)
    """Parts of the cross-validation; no template is in two."""
    n_permutations: int = Field(20, ge=1)
    """How often the probe is fitted again with the labels permuted by template: what chance looks like."""
    n_top: int = Field(10, ge=1)
    """Directions named in each layer that moved most."""
    seed: int = 0
    """Of the permutations."""
    tokens_per_batch: int = transport(4096, ge=64)
    """Padded tokens in one forward pass."""


class CausesOptions(Options):
    """Ablate each candidate alone in the tuned model: does the answer follow the cue less? Validation only."""

    enabled: bool = False
    """Measure it; needs `data.cues`."""
    splits: tuple[str, ...] = Field(("id",), min_length=1)
    """Splits whose rows are answered. Where the cue and the rule agree (`id`), a direction of the rule has an effect
    too; with an inverted split beside it the rule cancels out."""
    n_templates: int = Field(16, ge=1)
    """Templates whose rows are answered, all rows of each. Time grows with it: a pass for each direction."""
    n_bootstrap: int = Field(2000, ge=100)
    """Resamples behind each 95 % interval; the units are directions."""
    seed: int = 0
    """Of the templates and of the random directions."""
    tokens_per_batch: int = transport(4096, ge=64)
    """Padded tokens in one forward pass."""
