from __future__ import annotations

import pytest

from autocaft.arms import Arm, parse_arm
from autocaft.config import find_config, load_config
from autocaft.errors import ConfigError
from autocaft.pipeline import build_steps
from autocaft.run import Run
from autocaft.rundir.steps import Step, all_needs, declared_by_name


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        ("caft-sae-auto", Arm("caft-sae-auto", "sae", "auto")),
        ("caft-pca-random-live-mean-shift", Arm("caft-pca-random-live-mean-shift", "pca", "random-live", "mean-shift")),
        (
            "caft-sae-random-orthogonal-zero-fading",
            Arm("caft-sae-random-orthogonal-zero-fading", "sae", "random-orthogonal", "zero", "fading"),
        ),
        ("caft-pca-hybrid-mean@50%", Arm("caft-pca-hybrid-mean@50%", "pca", "hybrid", "mean", None, 0.5)),
        ("caft-sae-auto-inference", Arm("caft-sae-auto-inference", "sae", "auto", None, "inference")),
        (
            "caft-sae-auto-mean-fading@25%",
            Arm("caft-sae-auto-mean-fading@25%", "sae", "auto", "mean", "fading", 0.25),
        ),
        ("caft-pca-top-leace-inference", Arm("caft-pca-top-leace-inference", "pca", "top", "leace", "inference")),
        ("caft-sae-searched-mean", Arm("caft-sae-searched-mean", "sae", "searched", "mean")),
        ("tuned-kl", Arm("tuned-kl", how="kl")),
        ("tuned-stop-25", Arm("tuned-stop-25", how="stop", stop_at=0.25)),
    ],
)
def test_a_name_says_directions_and_how(name: str, arm: Arm) -> None:
    assert parse_arm(name) == arm


def test_steering_has_no_mode_and_one_control() -> None:
    name = "caft-pca-auto-preventative"
    assert parse_arm(name) == Arm(name, "pca", "auto", None, "preventative")
    for refused in (
        "caft-pca-auto-zero-preventative",
        "caft-pca-auto-leace-preventative",
        "caft-sae-random-live-preventative",
    ):
        with pytest.raises(ConfigError, match="Preventative steering removes nothing"):
            parse_arm(refused)


@pytest.mark.parametrize(
    "name",
    [
        "tuned-fading",
        "tuned-stop-0",
        "tuned-stop-100",
        "caft-sae-auto-kl",
        "caft-sae-auto-fading-zero",
        "base-kl",
        "caft-sae-searched@50%",
        "caft-sae-searched-preventative",
    ],
)
def test_what_the_grammar_does_not_say_is_no_arm(name: str) -> None:
    with pytest.raises(ConfigError, match="is no arm"):
        parse_arm(name)


def steps_of(arms: str, *overrides: str) -> dict[str, Step]:
    config = load_config(find_config("quickstart"), [f"arms={arms}", *overrides])
    return declared_by_name(build_steps(Run(config)))


def test_a_rival_without_directions_waits_for_nothing_and_knows_its_own_settings_alone() -> None:
    arms = '["base", "tuned-kl", "tuned-stop-50", "caft-sae-auto-fading", "caft-sae-auto"]'
    by_name = steps_of(arms)
    assert by_name["train/tuned-kl/seed0"].needs == by_name["train/tuned-stop-50/seed0"].needs == ()
    assert set(by_name["train/tuned-kl/seed0"].inputs) >= {"model"}
    other = steps_of(arms, "baselines.kl_weight=7", "baselines.fade_from=0.1")
    changed = {name for name, step in by_name.items() if dict(step.options) != dict(other[name].options)}
    assert changed == {"train/tuned-kl/seed0", "train/caft-sae-auto-fading/seed0"}


def test_what_is_ablated_at_inference_alone_is_the_tuned_model_of_every_seed() -> None:
    by_name = steps_of('["base", "caft-sae-auto-inference"]', "seeds=[0, 1]")
    for seed in (0, 1):
        evaluation = by_name[f"evaluate/caft-sae-auto-inference/seed{seed}"]
        assert {f"tune/seed{seed}", "select"} <= all_needs(evaluation, by_name)


def test_an_arm_whose_setting_is_missing_is_refused() -> None:
    for how in ("inoculation", "benign"):
        with pytest.raises(ConfigError, match=f"baselines.{how}"):
            steps_of(f'["base", "tuned-{how}"]')
    with pytest.raises(ConfigError, match="must come before"):
        steps_of('["base"]', "baselines.fade_from=0.96")
