"""The arms of a comparison: what a name says about how a model was trained.

`base` (not trained), `tuned` (plain SFT), and `caft-SOURCE-SELECTOR[-MODE]`: which directions were ablated while it
trained, who chose them, and how they were ablated if not in the recipe's own mode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from autocaft.errors import ConfigError

ArmSource = Literal["sae", "pca"]
Selector = Literal["auto", "human", "oracle", "random", "random-live", "top"]
ArmMode = Literal["zero", "mean", "mean-shift", "resample"]

SELECTORS: dict[Selector, str] = {
    "auto": "chosen by the judge",
    "human": "chosen by a person, in select.file",
    "oracle": "chosen by a word list that knows the answer: a ceiling, not a method",
    "random": "control: from the same candidates, not chosen, matched per layer in count and in variance removed",
    "random-live": "control: as many live latents of the whole dictionary",
    "top": "control: as many by rank alone",
}
_NAME = re.compile(r"caft-(sae|pca)-(random-live|auto|human|oracle|random|top)(?:-(zero|mean-shift|mean|resample))?")


@dataclass(frozen=True)
class Arm:
    """One arm; the last three are None for `base` and `tuned`, `mode` also where the recipe's mode holds."""

    name: str
    source: ArmSource | None = None
    selector: Selector | None = None
    mode: ArmMode | None = None

    @property
    def is_ablated(self) -> bool:
        """Whether a subspace is ablated while it trains."""
        return self.source is not None


def parse_arm(name: str) -> Arm:
    """The arm behind a name.

    Raises:
        ConfigError: not a name of an arm.
    """
    if name in ("base", "tuned"):
        return Arm(name)
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"arms: {name!r} is no arm. Arms are base, tuned and caft-SOURCE-SELECTOR or caft-SOURCE-SELECTOR-MODE; "
            f"SOURCE is sae or pca, SELECTOR {', '.join(SELECTORS)}, MODE zero, mean, "
            "resample or mean-shift"
        )
    source, selector, mode = match.groups()
    return Arm(name, cast(ArmSource, source), cast(Selector, selector), cast("ArmMode | None", mode))
