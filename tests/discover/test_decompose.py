from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_collect import LAYERS, make_generic, make_rows
from tiny_models import tiny_llama

from autocaft.data.rows import TaskRow
from autocaft.discover import decompose as module
from autocaft.discover.collect import collect
from autocaft.discover.decompose import decompose, load_extents
from autocaft.discover.mine import mine
from autocaft.discover.options import CollectOptions, DecomposeOptions, MineOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.shards import ShardReader
from autocaft.errors import DataError, NothingSelectedError
from autocaft.model.directions import DirectionSet
from autocaft.records import Example
from autocaft.rundir.files import read_records
from autocaft.rundir.progress import NullProgress

COLLECT = CollectOptions(n_continuations=3, continuation_tokens=8, store="float32")
OPTIONS = DecomposeOptions(n_pcs=4, d_sae=64, k=4, n_candidates=8, sae_batch_size=128, sae_epochs=20)


def _run(
    pair: ModelPair,
    tokenizer: Any,
    root: Path,
    options: DecomposeOptions = OPTIONS,
    rows: Sequence[TaskRow] | None = None,
) -> dict[str, Any]:
    common = {"models": pair, "tokenizer": tokenizer, "rows": rows or make_rows(), "progress": NullProgress()}
    generic = make_generic()
    collect(**common, generic=generic, layers=LAYERS, options=COLLECT, out=root / "collect")
    return decompose(
        **common, collected=root / "collect", collect_options=COLLECT, options=options, out=root / "decompose"
    )


@pytest.fixture(scope="module")
def done(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    root = tmp_path_factory.mktemp("run")
    return _run(ModelPair.of(tiny_llama(0), tiny_llama(1)), tokenizer, root), root


def test_candidates_are_unit_directions_with_their_counts(done: tuple[dict[str, Any], Path]) -> None:
    summary, root = done
    found = DirectionSet.load(root / "decompose")
    torch.testing.assert_close(found.vectors_ND.norm(dim=1), torch.ones(len(found)))
    for layer in LAYERS:
        own, note = [d for d in found.directions if d.layer == layer], summary["layers"][str(layer)]
        assert sum(d.source == "pca" for d in own) == note["n_pcs"] == 4
        assert sum(d.source == "sae" for d in own) == note["n_candidates"]
        assert 0 <= note["n_dead"] + note["n_always_on"] <= 64 and set(note["n_by_ranking"]) == set(OPTIONS.rankings)
    assert len({d.id for d in found.directions}) == len(found)


def test_variance_and_extents_are_those_of_the_stored_activations(done: tuple[dict[str, Any], Path]) -> None:
    _, root = done
    found, (low_N, high_N) = DirectionSet.load(root / "decompose"), load_extents(root / "decompose")
    reader = ShardReader(root / "collect" / "acts")
    for number, direction in enumerate(found.directions):
        acts_ND = torch.cat(list(reader.in_order(direction.layer, 100)))
        expected = float((acts_ND @ found.vectors_ND[number]).var())
        assert direction.variance == pytest.approx(expected, rel=1e-3)
        assert low_N[number] <= 0 <= high_N[number]


def test_killed_decompose_does_not_train_a_layer_twice(
    tokenizer: Any, tmp_path: Path, done: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, trained = module.train_dictionary, []

    def dying(reader: Any, layer: int, *args: Any, **kwargs: Any) -> Any:
        if len(trained) == 1:
            trained.append("killed")
            raise KeyboardInterrupt
        trained.append(layer)
        return real(reader, layer, *args, **kwargs)

    monkeypatch.setattr(module, "train_dictionary", dying)
    pair = ModelPair.of(tiny_llama(0), tiny_llama(1))
    with pytest.raises(KeyboardInterrupt):
        _run(pair, tokenizer, tmp_path)
    summary = _run(pair, tokenizer, tmp_path)
    assert trained == [0, "killed", 1]
    assert summary == done[0]
    for name in ("directions.jsonl", "vectors.safetensors"):
        assert (tmp_path / "decompose" / name).read_bytes() == (done[1] / "decompose" / name).read_bytes()


def test_latents_are_mined_on_their_activation(tokenizer: Any, done: tuple[dict[str, Any], Path]) -> None:
    _, root = done
    mine(
        tokenizer=tokenizer,
        rows=make_rows(),
        collected=root / "collect",
        decomposed=root / "decompose",
        decompose_options=OPTIONS,
        options=MineOptions(window=3, n_describe=3, n_verify=3),
        out=root / "mine",
        progress=NullProgress(),
    )
    examples = [e for e in read_records(root / "mine" / "examples.jsonl", Example) if "latent" in e.direction_id]
    assert {e.pole for e in examples} >= {"top", "random", "near"} and not any(e.pole == "bottom" for e in examples)
    found, (_, high_N) = DirectionSet.load(root / "decompose"), load_extents(root / "decompose")
    for example in examples:
        if example.pole in ("near", "random"):
            assert max(example.projections) == 0.0
        if example.pole == "top":
            assert 0 < max(example.projections) <= float(high_N[found.row_by_id[example.direction_id]]) * 1.001


def test_attribution_reads_rows_cut_as_asked_and_none_that_is_all_prompt(tokenizer: Any) -> None:
    rows, whole = make_rows(), OPTIONS.model_copy(update={"attribution_max_tokens": 8})
    read = module._attributed(tokenizer, rows, whole)
    uncut = [len(row.input_ids) for row in module._attributed(tokenizer, rows, OPTIONS)]
    n_prompts = [row.n_prompt for row in module._attributed(tokenizer, rows, OPTIONS)]
    assert max(uncut) > 8, "the rows are long enough for this test"
    assert all(row.n_prompt < len(row.input_ids) <= 8 for row in read)
    assert len(read) == sum(n < 8 for n in n_prompts)
    long = [TaskRow("r", "one two three four five six seven eight nine", " ten", None, "r", "", 1)]
    with pytest.raises(DataError, match="raise it"):
        module._attributed(tokenizer, long, whole)


def test_pca_alone_needs_no_model(tokenizer: Any, tmp_path: Path, done: tuple[dict[str, Any], Path]) -> None:
    def refuse() -> Any:
        pytest.fail("a model was loaded")

    summary = decompose(
        models=ModelPair(refuse, refuse),
        tokenizer=tokenizer,
        rows=make_rows(),
        collected=done[1] / "collect",
        collect_options=COLLECT,
        options=OPTIONS.model_copy(update={"sources": ("pca",)}),
        out=tmp_path,
        progress=NullProgress(),
    )
    assert summary["n_directions"] == 8


def test_where_tuning_changed_nothing_there_is_no_component_of_the_difference(tokenizer: Any, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"sources": ("pca",)})
    with pytest.raises(NothingSelectedError, match="tuning changed nothing"):
        _run(ModelPair.of(tiny_llama(0), tiny_llama(0)), tokenizer, tmp_path, options)


def test_independent_components_are_found_in_the_texts_of_the_task(tokenizer: Any, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"sources": ("pca",), "pcs": "independent"})
    pair = ModelPair.of(tiny_llama(0), tiny_llama(0))  # it needs no difference
    summary = _run(pair, tokenizer, tmp_path, options)
    found = DirectionSet.load(tmp_path / "decompose")
    assert len(found) == 4 * len(LAYERS) and {d.rank_by for d in found.directions} == {"kurtosis"}
    assert all(note["ica"]["n_tokens"] > 0 for note in summary["layers"].values())


def test_contrast_components_are_found_in_prompts_of_different_answers(tokenizer: Any, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"sources": ("pca",), "pcs": "contrast", "n_kinds": 3})
    pair = ModelPair.of(tiny_llama(0), tiny_llama(0))  # it needs no difference
    rows = [
        TaskRow(f"{who}{i}", f"{i} the {who} said the", answer, (" him", " her"), f"t{i}", f"the {who} said", i)
        for who, answer in (("doctor", " him"), ("nurse", " her"))
        for i in range(20)
    ]
    summary = _run(pair, tokenizer, tmp_path, options, rows)
    found = DirectionSet.load(tmp_path / "decompose")
    assert len(found) == summary["n_directions"] > 0 and {d.rank_by for d in found.directions} == {"contrast"}
    assert max(direction.strength for direction in found.directions) > 0.9
