"""Settings of depth `full`: a short fine-tuning on each set, what it changed, and whether that is a cause.

In: the table `[full]` of an audit's file. Out: frozen options, and the rooms' own made from them. The decision a reader
would question: few keys, not every key of every room. All sets are treated alike.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autocaft.discover.options import CollectOptions, DecomposeOptions
from autocaft.rundir.options import Options, transport
from autocaft.train.options import TuneOptions


class FullOptions(Options):
    """Only for `depth = "full"`; reference sets are not trained on."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes of the short fine-tuning (LoRA on all blocks) over a set's rows that were looked at."""
    lr: float = Field(default=5e-4, gt=0)
    """Its peak learning rate."""
    batch_size: int = Field(default=8, ge=1)
    """Rows of one step."""
    autocast: Literal["bf16", "fp32"] = "bf16"
    """Precision of its matrix products; as `tune.autocast` of a run."""
    every_held_out: int = Field(default=5, ge=2)
    """One row in so many is not trained on; the set's own loss is measured there."""
    n_generic: int = Field(default=150, ge=1)
    """Generic documents that changes are read in, beside the set's rows."""
    n_candidates: int = Field(default=12, ge=1)
    """Latents a layer that the fine-tuning moved most, for the judge."""
    n_pcs: int = Field(default=4, ge=1)
    """Components a layer of the difference tuned minus base, for the judge; its mean comes besides."""
    n_directions: int = Field(default=4, ge=1)
    """Of the directions that the judge finds off the purpose and training amplified, so many a layer are flagged."""
    basis: Literal["direction", "covariance"] = "direction"
    """What is removed for a flagged direction: `train.basis` of a run."""
    n_probes: int = Field(default=60, ge=10)
    """Generic documents on which the models' behaviour is compared; no other step reads them."""
    min_kept: float = Field(default=0.5, ge=0, le=1)
    """Of what training gained on the set's own held-out rows, so much must be left without the flagged directions."""
    caft: bool = False
    """Besides, do the fine-tuning again with the flagged directions ablated (CAFT), and with as many others: two more
    trainings a set. Shown, and no part of the verdict."""
    tokens_per_batch: int = transport(2048, ge=1)
    """Padded tokens of one forward pass."""

    @property
    def tune(self) -> TuneOptions:
        """For the train room."""
        own = {key: getattr(self, key) for key in ("epochs", "lr", "batch_size", "autocast")}
        return TuneOptions(**own)

    def collect(self, seed: int) -> CollectOptions:
        """For the collect stage: no text is sampled."""
        size = self.tokens_per_batch
        return CollectOptions(n_generic=self.n_generic, n_continuations=0, seed=seed, tokens_per_batch=size)

    def decompose(self, sae: str, always_on_share: float, seed: int) -> DecomposeOptions:
        """For the decompose stage, with the audit's own dictionary."""
        return DecomposeOptions(
            sae=sae,
            rankings=("difference",),
            n_candidates=self.n_candidates,
            n_pcs=self.n_pcs,
            always_on_share=always_on_share,
            seed=seed,
            tokens_per_batch=self.tokens_per_batch,
        )
