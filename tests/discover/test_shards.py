from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autocaft.discover.shards import ShardReader, ShardWriter, is_finished


def _write(folder: Path, lengths: list[int], *, rows_per_shard: int = 50, dtype: torch.dtype = torch.float32) -> dict:
    generator = torch.Generator().manual_seed(1)
    writer = ShardWriter(folder, [2, 5], d_model=8, dtype=dtype, rows_per_shard=rows_per_shard)
    truth: dict[int, torch.Tensor] = {}
    for number, length in enumerate(lengths):
        acts = {layer: torch.randn(length, 8, generator=generator) for layer in (2, 5)}
        writer.append(number, torch.full((length,), number), acts)
        truth[number] = acts[5]
    writer.close()
    return truth


def test_documents_come_back_whole_and_exact(tmp_path: Path) -> None:
    truth = _write(tmp_path, [10, 30, 25, 0, 120, 5])
    reader = ShardReader(tmp_path)
    seen = {}
    for shard in reader.shards(5):
        starts = shard.starts_M1.tolist()
        for i, number in enumerate(shard.docs_M.tolist()):
            assert set(shard.tokens_N[starts[i] : starts[i + 1]].tolist()) <= {number}
            seen[number] = shard.rows(starts[i], starts[i + 1])
    assert sorted(seen) == sorted(truth)
    assert all(torch.equal(seen[number], truth[number]) for number in truth)
    assert reader.n_rows == 190 and reader.n_documents == 6


def test_no_shard_is_larger_than_asked_unless_one_document_is(tmp_path: Path) -> None:
    _write(tmp_path, [10, 30, 25, 120, 5])
    assert ShardReader(tmp_path).rows_by_shard == [40, 25, 120, 5]


def test_bfloat16_keeps_massive_activations_that_half_precision_loses(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, [0], d_model=1, dtype=torch.bfloat16, rows_per_shard=10)
    writer.append(0, torch.tensor([7]), {0: torch.tensor([[1.0e6]])})
    writer.close()
    value = next(ShardReader(tmp_path).in_order(0, 10))
    assert torch.isfinite(value).all() and abs(float(value) / 1.0e6 - 1) < 0.01
    assert not torch.isfinite(torch.tensor(1.0e6).half())


def test_a_store_that_was_not_closed_is_not_finished_and_starts_anew(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, [0], d_model=2, dtype=torch.float32, rows_per_shard=3)
    for number in range(4):
        writer.append(number, torch.zeros(2), {0: torch.zeros(2, 2)})
    assert not is_finished(tmp_path)
    writer = ShardWriter(tmp_path, [0], d_model=2, dtype=torch.float32, rows_per_shard=3)
    writer.append(0, torch.zeros(1), {0: torch.ones(1, 2)})
    writer.close()
    assert is_finished(tmp_path) and ShardReader(tmp_path).n_rows == 1


def test_shuffled_epoch_gives_every_row_once_in_another_order(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, [0], d_model=1, dtype=torch.float32, rows_per_shard=1000)
    for number in range(30):
        rows_T = torch.arange(number * 100, number * 100 + 100)
        writer.append(number, rows_T, {0: rows_T[:, None].float()})
    writer.close()
    reader = ShardReader(tmp_path)
    first = torch.cat(list(reader.shuffled(0, 100, seed=0)))[:, 0]
    assert torch.equal(first.sort().values, torch.arange(3000).float())
    assert torch.equal(first, torch.cat(list(reader.shuffled(0, 100, seed=0)))[:, 0])
    assert not torch.equal(first, torch.cat(list(reader.shuffled(0, 100, seed=1)))[:, 0])
    # One batch comes from all over the store.
    assert float(first[:100].std()) > 500


@pytest.mark.parametrize("n_rows", [40, 1000])
def test_chunks_cover_every_document_once(tmp_path: Path, n_rows: int) -> None:
    _write(tmp_path, [10, 30, 25, 0, 20, 5], rows_per_shard=500)
    shard = ShardReader(tmp_path).shard(0, 2)
    chunks = list(shard.chunks(n_rows))
    assert [i for first, last in chunks for i in range(first, last)] == list(range(6))
    starts = shard.starts_M1.tolist()
    assert all(starts[last] - starts[first] <= n_rows for first, last in chunks)


def test_writer_keeps_a_copy_and_not_the_batch(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, [0], d_model=4, dtype=torch.float32, rows_per_shard=100)
    batch_ND = torch.zeros(1000, 4)
    writer.append(0, torch.zeros(2), {0: batch_ND[:2]})
    batch_ND.fill_(9.0)
    writer.close()
    assert not next(ShardReader(tmp_path).in_order(0, 10)).any()


def test_one_buffer_serves_every_shard(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, [0], d_model=4, dtype=torch.float32, rows_per_shard=10)
    place = writer._acts[0].data_ptr()
    for number in range(7):
        writer.append(number, torch.zeros(6), {0: torch.zeros(6, 4)})
    assert len(writer.shards) == 6 and writer._acts[0].data_ptr() == place
