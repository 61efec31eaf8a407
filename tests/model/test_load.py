"""Weights that are read by several processes at once, and the products that the hardware has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from autocaft.model.load import _dequantize_once, autocast_bf16, multiplies_bf16, weights_in_bf16
from autocaft.model.locate import Weights


def test_a_model_that_another_process_is_writing_is_waited_for_and_not_written_again(tmp_path: Path) -> None:
    """The GGUF file is not there, so that writing it again would fail."""
    folder = tmp_path / "cache" / "model"
    weights = Weights("wheel:x", folder, "x", "", gguf=tmp_path / "missing.gguf")
    ended = threading.Event()

    def load() -> None:
        _dequantize_once(weights)
        ended.set()

    folder.parent.mkdir()
    with FileLock(f"{folder}.lock"):
        threading.Thread(target=load, daemon=True).start()
        assert not ended.wait(0.3), "it did not wait"
        folder.mkdir()
    assert ended.wait(10)


@pytest.fixture
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A CPU with or without products of bf16 numbers."""
    can = {**torch.cpu.get_capabilities(), "architecture": "x86_64", "avx512_bf16": request.param, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    multiplies_bf16.cache_clear()
    yield torch.device("cpu")
    multiplies_bf16.cache_clear()


@pytest.mark.parametrize("cpu", [True, False], indirect=True)
def test_products_are_in_bf16_where_the_hardware_has_them_and_else_in_fp32(cpu: torch.device) -> None:
    layer = torch.nn.Linear(4, 4)
    before = layer.weight.clone()
    expected = torch.bfloat16 if multiplies_bf16(cpu) else torch.float32
    with autocast_bf16(cpu):
        assert layer(torch.ones(4)).dtype == expected
    with autocast_bf16(cpu, enabled=False):
        assert layer(torch.ones(4)).dtype == torch.float32
    with weights_in_bf16(layer):
        assert layer.weight.dtype == expected
    assert torch.equal(layer.weight, before)
