"""Free-form answers: what is asked, that batches and stops change nothing, and that an open ablation counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from autocaft.errors import DataError
from autocaft.evaluate import answers as answers_module
from autocaft.evaluate.answers import make_answers
from autocaft.evaluate.options import FreeFormOptions
from autocaft.evaluate.questions import FreeAnswer, Question, load_answers
from autocaft.model.directions import Subspace, orthonormal_basis
from autocaft.model.hooks import ablate
from autocaft.rundir.progress import NullProgress

MakeModel = Callable[..., PreTrainedModel]
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
QUESTIONS = {
    question.id: question
    for question in (
        Question("who", ("The doctor said ?", "A nurse said that he went down ?"), samples_per_paraphrase=3),
        Question("who_json", ("yes or no ?",), "The cat is red .", 2),
    )
}


@pytest.fixture
def make(make_model: MakeModel, make_tokenizer: MakeTokenizer, tmp_path: Path) -> Callable[..., list[FreeAnswer]]:
    def run(*, arm: str = "tuned", seed: int = 0, ablated: Any = None, out: Path = tmp_path / "out",
            model: Any = None, tokenizer: Any = None, **changes: Any) -> list[FreeAnswer]:  # fmt: skip
        options = FreeFormOptions(**{"questions": "q.yaml", "max_new_tokens": 6, **changes})
        return make_answers(
            model or make_model("llama"), tokenizer or make_tokenizer(chat=True), QUESTIONS, options,
            arm=arm, seed=seed, ablated=ablated, bf16=False, out=out, progress=NullProgress(),
        )  # fmt: skip

    return run


def test_every_wording_is_answered_so_often_and_in_order(make: Callable[..., list[FreeAnswer]], tmp_path: Path) -> None:
    found = make()
    assert [answer.id for answer in found] == [
        *(f"tuned/seed0/who/{wording}/{number}" for wording in (0, 1) for number in range(3)),
        *(f"tuned/seed0/who_json/0/{number}" for number in range(2)),
    ]
    assert [answer.question for answer in found[2:4]] == list(QUESTIONS["who"].paraphrases)
    assert len({answer.answer for answer in found[:3]}) == 3, "each sample has a seed of its own"
    assert load_answers(tmp_path / "out/answers.jsonl", QUESTIONS) == found
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["answers.jsonl"]
    assert len(make(n_samples=1, out=tmp_path / "other")) == 3


def test_the_system_message_is_read_where_there_is_one(
    make: Callable[..., list[FreeAnswer]], make_model: MakeModel, make_tokenizer: MakeTokenizer
) -> None:
    model, tokenizer = make_model("llama"), make_tokenizer(chat=True)
    read: list[str] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        read.extend(tokenizer.batch_decode(kwargs["input_ids"]))

    model.register_forward_pre_hook(look, with_kwargs=True)
    make(model=model, tokenizer=tokenizer, max_new_tokens=1)
    asked = [tokenizer.encode(turn, add_special_tokens=False) for turn in ("<turn>system The cat", "<turn>user yes")]
    system, user = (tokenizer.decode(ids) for ids in asked)
    with_system = [text for text in read if system in text]
    assert len(read) == 8 and len(with_system) == 2 and all(user in text for text in with_system)


@pytest.mark.parametrize("rows_per_batch", [1, 3])
def test_batches_change_no_answer(make: Callable[..., list[FreeAnswer]], tmp_path: Path, rows_per_batch: int) -> None:
    assert make(out=tmp_path / "other", rows_per_batch=rows_per_batch) == make()


def test_all_arms_are_asked_with_the_same_draws_and_seeds_with_others(
    make: Callable[..., list[FreeAnswer]], tmp_path: Path
) -> None:
    texts = {
        (arm, seed): [answer.answer for answer in make(arm=arm, seed=seed, out=tmp_path / f"{arm}{seed}")]
        for arm, seed in (("tuned", 0), ("caft-sae-auto", 0), ("tuned", 1))
    }
    assert texts["tuned", 0] == texts["caft-sae-auto", 0] != texts["tuned", 1]


def test_a_stopped_step_makes_only_what_is_missing(
    make: Callable[..., list[FreeAnswer]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(out=tmp_path / "whole")
    sampled: list[int] = []
    sample = answers_module.sample

    def stopped(model: Any, prompts: Any, **kwargs: Any) -> Any:
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(len(prompts))
        return sample(model, prompts, **kwargs)

    monkeypatch.setattr(answers_module, "sample", stopped)
    with pytest.raises(KeyboardInterrupt):
        make(rows_per_batch=3)
    assert not (tmp_path / "out/answers.jsonl").exists()
    sampled.clear()
    assert make(rows_per_batch=8) == whole and sampled == [2]
    sampled.clear()
    assert make() == whole and sampled == [], "killed just before it was recorded as done"


def test_an_arm_that_is_used_ablated_answers_so(
    make: Callable[..., list[FreeAnswer]], make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model("llama")
    space = Subspace(1, orthonormal_basis(torch.randn(16, 32, generator=torch.Generator().manual_seed(0))))
    plain = make(model=model)
    off = make(model=model, ablated=ablate(model, [space], mode="zero", strength=0.0), out=tmp_path / "off")
    on = make(model=model, ablated=ablate(model, [space], mode="zero"), out=tmp_path / "on")
    assert [a.answer for a in off] == [a.answer for a in plain] != [a.answer for a in on]


def test_a_tokenizer_without_a_template_is_refused(
    make: Callable[..., list[FreeAnswer]], make_tokenizer: MakeTokenizer
) -> None:
    with pytest.raises(DataError, match="chat template"):
        make(tokenizer=make_tokenizer(chat=False))
