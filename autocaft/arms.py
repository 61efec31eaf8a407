"""The arms of a comparison: what a name says about how a model was trained.

`base` (not trained), `tuned` (plain SFT), and `caft-SOURCE-SELECTOR[-MODE][@SHARE%]`: which directions were ablated
while it trained, who chose them, how they were ablated if not in the recipe's own mode, and how much of the choice.
The share is the dial of a sweep: what a choice gains is only comparable with another's at the same cost to the task.
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
_NAME = re.compile(
    r"caft-(sae|pca)-(random-live|auto|human|oracle|random|top)(?:-(zero|mean-shift|mean|resample))?(?:@([1-9]\d?)%)?"
)


@dataclass(frozen=True)
class Arm:
    """One arm; all but the name are None for `base` and `tuned`, `mode` also where the recipe's mode holds."""

    name: str
    source: ArmSource | None = None
    selector: Selector | None = None
    mode: ArmMode | None = None
    share: float | None = None
    """How much of the choice is ablated, the first of each layer; None for all of it."""

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
            "resample or mean-shift; @25% behind it takes that share of the choice (1 to 99)"
        )
    source, selector, mode, percent = match.groups()
    share = None if percent is None else int(percent) / 100
    return Arm(name, cast(ArmSource, source), cast(Selector, selector), cast("ArmMode | None", mode), share)
