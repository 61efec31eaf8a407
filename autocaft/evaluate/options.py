"""Options of `[evaluate]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autocaft.rundir.options import Options, transport


class EvaluateOptions(Options):
    """How every arm is measured."""

    hooks: tuple[Literal["off", "on"], ...] = ("off",)
    """`off` measures the model as it is used; `on` measures ablated arms once more with the ablation in place."""
    n_damage_documents: int = Field(40, ge=0)
    """Generic documents for perplexity and KL to base (general damage); 0 leaves both out."""
    damage_max_tokens: int = Field(160, ge=8)
    """Those documents are cut to this many tokens."""
    n_bootstrap: int = Field(2000, ge=100)
    """Resamples behind each 95 % interval; clusters are templates, or documents."""
    autocast: Literal["bf16", "fp32"] = "bf16"
    """Precision of matrix products while measuring."""
    tokens_per_batch: int = transport(4096, ge=64)
    """Padded tokens in one forward pass."""
