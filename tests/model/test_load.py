"""Weights that are read by several processes at once."""

from __future__ import annotations

import threading
from pathlib import Path

from filelock import FileLock

from autocaft.model.load import _dequantize_once
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
