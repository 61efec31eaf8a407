from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from autocaft.data.rows import TaskRow
from autocaft.discover.contrast import Contrasts, Labels, PromptReader, Tokens, contrast_components
from autocaft.discover.shards import ShardReader, ShardWriter
from autocaft.errors import DataError

WIDTH, N_ROWS = 16, 200


def _rows(answers: list[str], choices: tuple[str, ...] | None = (" yes", " no")) -> list[TaskRow]:
    return [TaskRow(f"r{i}", "?", a, choices, f"t{i // 2}", "?", i + 1, "rows.jsonl") for i, a in enumerate(answers)]


ANSWERS = [" yes" if i % 2 else " no" for i in range(N_ROWS)]


def _planted(answers: list[str] = ANSWERS) -> tuple[Tokens, torch.Tensor]:
    """Three tokens a row. The first is loud along axis 0 and says the answer along axis 1, the second is loud along
    axis 2 and says it along axis 3, the third is the loudest, along axis 4, and says nothing."""
    generator = torch.Generator().manual_seed(0)
    acts_RTD = 0.3 * torch.randn(len(answers), 3, WIDTH, generator=generator)
    sign_R = torch.tensor([1.0 if answer == " yes" else -1.0 for answer in answers])
    for token, loudness in enumerate((5.0, 5.0, 20.0)):
        acts_RTD[:, token, 2 * token] += loudness
    acts_RTD[:, 0, 1] += sign_R
    acts_RTD[:, 1, 3] += sign_R
    acts_ND = acts_RTD.flatten(0, 1)
    return Tokens(acts_ND, torch.arange(len(answers)).repeat_interleave(3)), torch.cov(acts_ND.T)


def _found(labels: Labels, n_components: int = 10, n_kinds: int = 3) -> tuple[Contrasts, torch.Tensor]:
    """The components, and what each writes: its covariance with the activations."""
    prompts, covariance_DD = _planted()
    found = contrast_components([prompts], labels, covariance_DD, n_kinds=n_kinds, n_components=n_components, seed=0)
    return found, torch.nn.functional.normalize(found.vectors_CD @ covariance_DD, dim=1)


@pytest.mark.parametrize("n_kinds", [3, 6, 24])
def test_each_kind_of_token_has_its_own_component_and_what_is_loud_in_every_row_has_none(n_kinds: int) -> None:
    """More parts than kinds cut a kind along its answers; such parts are joined again."""
    found, written_CD = _found(Labels.of(_rows(ANSWERS)), n_kinds=n_kinds)
    assert found.n_tested == found.n_kinds <= n_kinds
    found_axes = set(written_CD.abs().argmax(dim=1).tolist())
    assert found_axes == {1, 3} and (n_kinds > 3 or len(found.vectors_CD) == 2)
    assert float(written_CD.abs().amax(dim=1).min()) > 0.98
    assert float(found.explained_C.min()) > 0.8
    torch.testing.assert_close(found.vectors_CD.norm(dim=1), torch.ones(2))


def test_rows_that_all_have_one_template_are_halved_one_by_one() -> None:
    labels = Labels.of([dataclasses.replace(row, template="the only one") for row in _rows(ANSWERS)])
    assert 0.4 < float(labels.half_R.float().mean()) < 0.6
    found, written_CD = _found(labels)
    assert set(written_CD[:2].abs().argmax(dim=1).tolist()) == {1, 3} and float(found.explained_C[1]) > 0.8


def test_answers_at_random_have_hardly_any_component() -> None:
    """As many as the chance says, for which the rows must be independent: 300 components of noise here."""
    n_found = 0
    for seed in range(100):
        mixed = [ANSWERS[i] for i in torch.randperm(N_ROWS, generator=torch.Generator().manual_seed(seed)).tolist()]
        found, _ = _found(Labels.of(_rows(mixed)))
        assert found.n_tested == 3
        n_found += len(found.vectors_CD)
    assert n_found <= 9


def test_removing_what_the_components_write_leaves_the_kinds_no_difference() -> None:
    _, written_CD = _found(Labels.of(_rows(ANSWERS)))
    prompts, _ = _planted()
    basis_DK = torch.linalg.qr(written_CD.T)[0]
    left_ND = prompts.acts_ND - prompts.acts_ND @ basis_DK @ basis_DK.T
    is_yes_R = torch.tensor([answer == " yes" for answer in ANSWERS])
    for acts_ND, at_most in ((prompts.acts_ND, None), (left_ND, 0.12)):
        by_row_RTD = acts_ND.unflatten(0, (N_ROWS, 3))[:, :2]
        apart = float((by_row_RTD[is_yes_R].mean(dim=0) - by_row_RTD[~is_yes_R].mean(dim=0)).abs().max())
        assert apart > 1.8 if at_most is None else apart < at_most


def test_three_answers_make_two_components_of_a_kind() -> None:
    answers = [(" a", " b", " c")[i % 3] for i in range(N_ROWS)]
    acts_RD = 0.3 * torch.randn(N_ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    for row in range(N_ROWS):
        acts_RD[row, row % 3] += 2.0
    prompts = Tokens(acts_RD, torch.arange(N_ROWS))
    labels = Labels.of(_rows(answers, (" a", " b", " c")))
    found = contrast_components([prompts], labels, torch.cov(acts_RD.T), n_kinds=1, n_components=10, seed=0)
    assert len(found.vectors_CD) == 2 and float(found.explained_C.min()) > 0.8


def test_at_most_so_many_components_the_most_telling_first() -> None:
    every, _ = _found(Labels.of(_rows(ANSWERS)))
    first, _ = _found(Labels.of(_rows(ANSWERS)), n_components=1)
    assert torch.equal(first.vectors_CD, every.vectors_CD[:1]) and every.explained_C[0] >= every.explained_C[1]


def test_only_prompts_are_read(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, [3], d_model=2, dtype=torch.float32, rows_per_shard=4)
    for document, n_tokens in enumerate((3, 2, 4)):
        acts_TD = torch.full((n_tokens, 2), float(document))
        acts_TD[-1] = -1.0  # the answer's token, or generic text's last one
        writer.append(document, torch.arange(n_tokens), {3: acts_TD})
    writer.close()
    first, second = PromptReader(ShardReader(tmp_path), 3, {0: 1, 2: 0}, n_prompt_R=[4, 3])
    assert first.row_N.tolist() == [1, 1] and first.acts_ND[:, 0].tolist() == [0.0, 0.0]
    assert second.row_N.tolist() == [0, 0, 0] and second.acts_ND[:, 0].tolist() == [2.0, 2.0, 2.0]


def test_how_the_prompts_are_cut_into_pieces_changes_nothing() -> None:
    whole, covariance_DD = _planted()
    pieces = [Tokens(*part) for part in zip(whole.acts_ND.split(70), whole.row_N.split(70), strict=True)]
    one, other = (
        contrast_components(prompts, Labels.of(_rows(ANSWERS)), covariance_DD, n_kinds=3, n_components=10, seed=0)
        for prompts in ([whole], pieces)
    )
    torch.testing.assert_close(one.vectors_CD, other.vectors_CD)
    torch.testing.assert_close(one.explained_C, other.explained_C)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (_rows([" yes", " no"], None), "rows.jsonl:1: row 'r0' lists no `choices`"),
        (_rows([" no"] * 8), "the 8 training rows that are read \\(collect.n_rows\\) have 1,"),
        (_rows([f" {i // 2}" for i in range(8)]), "have 4, and two or more are needed, of four rows each"),
    ],
)
def test_rows_without_different_options_are_refused(rows: list[TaskRow], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Labels.of(rows)
