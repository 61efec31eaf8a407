"""Options: documented once, fingerprinted without transport, faults in plain sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from autocaft.errors import ConfigError
from autocaft.rundir.options import (
    Options,
    added,
    describe_fields,
    fingerprint_options,
    flatten,
    make_options,
    transport,
    unknown_key_message,
)


class Inner(Options):
    """The training table."""

    mode: Literal["mean", "zero"] = "mean"
    """What is left in the subspace."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate."""
    batch_size: int = transport(8, ge=1)
    """Rows at once in inference."""


class Outer(Options):
    """Everything."""

    model: str
    """Model to tune."""
    layers: tuple[int, ...] = (1, 2)
    """Decoder blocks."""
    train: Inner = Inner(lr=0.5)
    """Training."""
    arms: dict[str, Inner] = Field(default_factory=dict)
    """Settings by arm."""
    cache: Path | None = transport(None)
    """Where downloads go."""


def test_fields_are_described_from_the_docstring_under_them() -> None:
    rows = {row.key: row for row in describe_fields(Outer)}
    assert list(rows) == [
        "model", "layers", "train.mode", "train.lr", "train.batch_size",
        "arms.NAME.mode", "arms.NAME.lr", "arms.NAME.batch_size", "cache",
    ]  # fmt: skip
    assert rows["model"] == ("model", "text", ..., "Model to tune.", True)
    assert rows["train.mode"] == ("train.mode", '"mean" | "zero"', "mean", "What is left in the subspace.", True)
    assert rows["train.lr"].type_text == "float, > 0"
    assert rows["train.lr"].default == 0.5, "the table's own default counts, not the class's"
    assert rows["layers"].type_text == "list of int"
    assert rows["cache"].type_text == "path | none"
    assert not rows["cache"].affects_results and not rows["train.batch_size"].affects_results


def test_flatten_keeps_everything_and_fingerprint_leaves_transport_out() -> None:
    options = Outer(model="m", arms={"caft": Inner(mode="zero")}, cache=Path("/c"))
    assert flatten(options) == {
        "model": "m", "layers": [1, 2], "train.mode": "mean", "train.lr": 0.5, "train.batch_size": 8,
        "arms.caft.mode": "zero", "arms.caft.lr": 1e-4, "arms.caft.batch_size": 8, "cache": "/c",
    }  # fmt: skip
    left_out = {"train.batch_size", "arms.caft.batch_size", "cache"}
    assert fingerprint_options(options) == {key: v for key, v in flatten(options).items() if key not in left_out}
    assert fingerprint_options({"train": options.train}) == {"train.mode": "mean", "train.lr": 0.5}


def test_a_field_that_came_later_counts_only_where_it_is_not_its_default() -> None:
    class Grown(Inner):
        """Inner, a version later."""

        targets: tuple[str, ...] = added(("all",))
        """What is trained."""

    assert fingerprint_options(Grown()) == fingerprint_options(Inner()), "older runs stay finished"
    assert fingerprint_options(Grown(targets=("some",)))["targets"] == ["some"]
    assert flatten(Grown())["targets"] == ["all"] and describe_fields(Grown)[-1].affects_results


def test_flatten_of_dotted_keys_is_the_same_again() -> None:
    flat = flatten(Outer(model="m"))
    assert flatten(flat) == flat
    assert flat["arms"] == {}


def test_unknown_key_names_the_nearest() -> None:
    known = ["train.mode", "train.lr", "judge.model"]
    assert "`train.mode`" in unknown_key_message("train.mod", known)
    assert "`train.mode`" in unknown_key_message("mode", known)
    assert "`train.lr`" in unknown_key_message("trian.lr", known)
    assert "known keys are `judge.model`, `train.lr`, `train.mode`" in unknown_key_message("zebra", known)


def test_faults_are_plain_sentences_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_options(Outer, {"train": {"mod": "zero", "lr": -1.0, "mode": "half"}}, "my.toml")
    text = str(caught.value)
    assert text.startswith("my.toml cannot be used:")
    assert "`model` is missing: Model to tune." in text
    assert "unknown key `train.mod`; the nearest known key is `train.mode`" in text
    assert "`train.lr` is -1.0: input should be greater than 0" in text
    assert "`train.mode` is 'half': input should be 'mean' or 'zero'" in text
    assert "pydantic" not in text


def test_options_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().mode = "zero"  # type: ignore[misc]
