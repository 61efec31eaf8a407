"""The arms of a comparison: what a name says about how a model was trained.

    base                                        not trained
    tuned[-HOW]                                 plain SFT, or with a defence that looks at no direction
    caft-SOURCE-SELECTOR[-MODE][-HOW][@SHARE%]  which directions are ablated while it trains, who chose them, how they
                                                are ablated if not in the recipe's own mode, what else departs, and how
                                                much of the choice is taken

An arm is directions and how. The decision a reader would question: rivals and controls are words of the same small
grammar and not stages of their own, so that all share data, seeds and evaluation with what they are held against. The
share is the dial of a sweep: what a choice gains is only comparable with another's at the same cost to the task.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from autocaft.errors import ConfigError

ArmSource = Literal["sae", "pca"]
Selector = Literal["auto", "searched", "human", "hybrid", "oracle", "random", "random-live", "random-orthogonal", "top"]
ArmMode = Literal["zero", "mean", "mean-shift", "resample", "leace"]
How = Literal[
    "fading", "inference", "activation-only", "gradient-only", "preventative",
    "inoculation", "kl", "l2sp", "benign", "stop",
]  # fmt: skip

SELECTORS: dict[Selector, str] = {
    "auto": "chosen by the judge",
    "searched": "chosen by the judge; at which layers, how much of it and how strongly was found by short trainings",
    "human": "chosen by a person, in select.file",
    "hybrid": "chosen by the judge, and by a person, in select.file, where the judge was not sure",
    "oracle": "chosen by a word list that knows the answer: a ceiling, not a method",
    "random": "control: from the same candidates, not chosen, matched per layer in count and in variance removed",
    "random-live": "control: as many live latents of the whole dictionary",
    "random-orthogonal": "control: random orthogonal vectors, as many a layer as the chosen ones span",
    "top": "control: as many by rank alone",
}
MODES: dict[ArmMode, str] = {
    "zero": "the projection is removed (the paper)",
    "mean-shift": "control: the mean's component is added, and nothing removed",
    "mean": "the base model's mean takes the projection's place",
    "resample": "another row's projection takes its place",
    "leace": "the mean takes its place, and what goes along with it changes as little as can be (LEACE)",
}
CAFT_HOWS: dict[How, str] = {
    "fading": "the ablation fades to nothing over the last part of the training",
    "inference": "plain SFT; ablated only when it is used, and measured so",
    "activation-only": "the forward pass is ablated, the gradient is not",
    "gradient-only": "the gradient is ablated, the forward pass is not",
    "preventative": "the directions are added while it trains, and nothing is removed (preventative steering)",
}
TUNED_HOWS: dict[How, str] = {
    "inoculation": "a line that asks for the unwanted trait stands before every training prompt, and later does not",
    "kl": "a penalty on the divergence from the base model's answers",
    "l2sp": "a penalty on the squared distance from the base model's weights",
    "benign": "rows of another, harmless data set among the training rows",
    "stop": "stopped after so many per cent of the steps",
}
_CAFT = re.compile(
    r"caft-(sae|pca)-(random-live|random-orthogonal|auto|searched|human|hybrid|oracle|random|top)"
    rf"(?:-({'|'.join(MODES)}))?"
    rf"(?:-({'|'.join(CAFT_HOWS)}))?"
    r"(?:@([1-9]\d?)%)?"
)
_TUNED = re.compile(r"tuned-(?:(inoculation|kl|l2sp|benign)|(stop)-([1-9]\d?))")


@dataclass(frozen=True)
class Dials:
    """How much of a choice is ablated, and how strongly."""

    layers: tuple[int, ...]
    """Where; of what was chosen at other layers nothing is ablated."""
    share: float
    """How much of each layer's choice, the most relevant first."""
    strength: float
    """Share of the projection that is removed."""

    @property
    def name(self) -> str:
        """`L14-L20@50%x1`: layers, share and strength."""
        return f"{'-'.join(f'L{layer}' for layer in self.layers)}@{100 * self.share:g}%x{self.strength:g}"


@dataclass(frozen=True)
class Arm:
    """One arm; `source` and `selector` are None where no direction is looked at, `mode` where the recipe's holds."""

    name: str
    source: ArmSource | None = None
    selector: Selector | None = None
    mode: ArmMode | None = None
    how: How | None = None
    share: float | None = None
    """How much of the choice is ablated, the first of each layer; None for all of it."""
    dials: Dials | None = None
    """Of a searched arm, once the search is done, and of its trials. No name has them."""
    stop_at: float | None = None
    """Share of the steps after which it is stopped."""

    @property
    def is_with_a_person(self) -> bool:
        """Whether a person has a say in its choice, in `select.file`."""
        return self.selector in ("human", "hybrid")

    @property
    def has_directions(self) -> bool:
        """Whether a subspace is ablated, while it trains or when it is used."""
        return self.source is not None

    @property
    def manner(self) -> str | None:
        """In what it departs from the recipe's own ablation, as its name says it; None for nothing."""
        return "-".join(word for word in (self.mode, self.how) if word is not None) or None

    @property
    def is_ablated(self) -> bool:
        """Whether a subspace is ablated while it trains."""
        return self.has_directions and self.how != "inference"

    @property
    def is_trained_apart(self) -> bool:
        """Whether it has a training of its own besides plain tuning."""
        return self.name not in ("base", "tuned") and self.how != "inference"


def parse_arm(name: str) -> Arm:
    """The arm behind a name.

    Raises:
        ConfigError: not a name of an arm.
    """
    if name in ("base", "tuned"):
        return Arm(name)
    plain = _TUNED.fullmatch(name)
    if plain is not None:
        word, stop, percent = plain.groups()
        return Arm(name, how=cast(How, word or stop), stop_at=int(percent) / 100 if percent else None)
    match = _CAFT.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"arms: {name!r} is no arm. Arms are base, tuned, tuned-HOW with HOW one of {', '.join(TUNED_HOWS)} "
            "(stop-25: after 25 % of the steps), and caft-SOURCE-SELECTOR[-MODE][-HOW]; SOURCE is sae or pca, SELECTOR "
            f"{', '.join(SELECTORS)}, MODE {', '.join(MODES)}, HOW {', '.join(CAFT_HOWS)}; @25% behind it takes that "
            "share of the choice (1 to 99)"
        )
    source, selector, mode, how, percent = match.groups()
    if how == "preventative" and (mode is not None or selector in ("random-live", "random-orthogonal")):
        raise ConfigError(
            f"arms: {name!r} is no arm. Preventative steering removes nothing, so it has no MODE, and adds candidates "
            "as far as they are known to vary, so its control is `random`"
        )
    if selector == "searched" and (percent is not None or how == "preventative"):
        raise ConfigError(
            f"arms: {name!r} is no arm. What the search chooses is how much of the judge's choice is removed: there is "
            "no @SHARE% of it, and nothing of it is added"
        )
    return Arm(
        name,
        cast(ArmSource, source),
        cast(Selector, selector),
        cast("ArmMode | None", mode),
        cast("How | None", how),
        None if percent is None else int(percent) / 100,
    )
