"""Dictionaries of other libraries: encoded as they encode, and ten folders that mean harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autocaft.discover.sae import load_dictionary
from autocaft.errors import ModelError

RECORDED = Path(__file__).parent / "recorded" / "dictionaries"
WIDTH, LAYER = 16, 5
FOLDERS = (
    "dictionary_learning_standard",
    "dictionary_learning_top_k",
    "dictionary_learning_batch_top_k",
    "dictionary_learning_matryoshka",
    "dictionary_learning_jump_relu",
    "gemma_scope/layer_5/width_32/average_l0_8",
    "sparsify/layers.5",
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_latents_are_those_of_the_library_that_wrote_the_file(folder: str) -> None:
    theirs = load_file(RECORDED / folder / "encoded.safetensors")
    dictionary = load_dictionary(str(RECORDED / folder), LAYER, width=WIDTH)
    acts_ND, latents_NS = theirs["acts_ND"], theirs["latents_NS"]
    torch.testing.assert_close(dictionary.sae.encode(acts_ND), latents_NS, rtol=1e-4, atol=1e-5)
    assert 0.02 < float((latents_NS > 0).float().mean()) < 0.6, "planted: some are active, some are not"
    # one token alone has the latents it has among others, and a latent is a length along a unit direction
    torch.testing.assert_close(dictionary.encode(acts_ND[3:4]), dictionary.encode(acts_ND)[3:4])
    torch.testing.assert_close(dictionary.directions_SD.norm(dim=1), torch.ones(32))
    decoded_ND = dictionary.encode(acts_ND) @ dictionary.directions_SD + dictionary.sae.b_dec
    torch.testing.assert_close(decoded_ND, dictionary.sae.decode(latents_NS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("folder", FOLDERS)
def test_another_layer_or_width_is_refused(folder: str) -> None:
    with pytest.raises(ModelError, match=r"made for blocks\.5\.hook_resid_post, but layer 6"):
        load_dictionary(str(RECORDED / folder), LAYER + 1, width=WIDTH)
    with pytest.raises(ModelError, match="width is 24"):
        load_dictionary(str(RECORDED / folder), LAYER, width=24)


def test_a_latent_without_a_direction_is_dead() -> None:
    dictionary = load_dictionary(str(RECORDED / FOLDERS[0]), LAYER, width=WIDTH)
    dictionary.sae.W_dec.data[7] = 0
    again = type(dictionary).of(dictionary.sae)
    acts_ND = load_file(RECORDED / FOLDERS[0] / "encoded.safetensors")["acts_ND"]
    assert (dictionary.encode(acts_ND)[:, 7] > 0).any() and not again.encode(acts_ND)[:, 7].any()


def test_a_repository_of_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    repo = tmp_path / "models--someone--saes"
    shutil.copytree(RECORDED / FOLDERS[2], repo / "snapshots/abc/a_5/t")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_dictionary("hub:someone/saes/a_{layer}/t", LAYER, width=WIDTH).d_sae == 32
    with pytest.raises(ModelError, match="no dictionary in 'b_5/t'"):
        load_dictionary("hub:someone/saes/b_{layer}/t", LAYER, width=WIDTH)
    with pytest.raises(ModelError, match="Hub did not give it"):
        load_dictionary("hub:someone/other/a", LAYER, width=WIDTH)


# What means harm. Each spoils a copy of a good folder; `ran` is the file that code from it would leave.


class Harm:
    """Writes a file where it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.ran}",)


def spoil_pt(folder: Path, **changes: Any) -> None:
    found = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(found | changes, folder / "ae.pt")


def spoil_config(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def trainer_config(**changes: Any) -> str:
    config = json.loads((RECORDED / "dictionary_learning_batch_top_k/config.json").read_text())
    return json.dumps({"trainer": config["trainer"] | changes})


def code_in_a_checkpoint(folder: Path, ran: Path) -> None:
    spoil_pt(folder, b_dec=Harm(ran))


def code_in_a_bare_pickle(folder: Path, ran: Path) -> None:
    (folder / "ae.pt").write_bytes(pickle.dumps({"b_dec": Harm(ran)}))


def code_in_an_array(folder: Path, ran: Path) -> None:
    arrays = dict(np.load(folder / "params.npz"))
    np.savez(folder / "params.npz", **arrays | {"b_dec": np.array([Harm(ran)] * WIDTH, dtype=object)})


def a_view_of_one_number(folder: Path, ran: Path) -> None:
    one, n = torch.ones(1), 2**40
    sizes = {"encoder.weight": (n, WIDTH), "encoder.bias": (n,), "decoder.weight": (WIDTH, n)}
    spoil_pt(folder, **{name: one.expand(size) for name, size in sizes.items()})


def an_array_of_terabytes(folder: Path, ran: Path) -> None:
    with zipfile.ZipFile(folder / "params.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**42,)})
    with zipfile.ZipFile(folder / "params.npz", "w") as archive:
        for name, content in (members | {"threshold.npy": header.getvalue() + bytes(128)}).items():
            archive.writestr(name, content)


def a_bomb(folder: Path, ran: Path) -> None:
    np.savez_compressed(folder / "params.npz", W_enc=np.zeros((WIDTH, 1 << 20), dtype=np.float32))


def a_way_out_of_the_folder(folder: Path, ran: Path) -> None:
    with zipfile.ZipFile(folder / "params.npz", "a") as archive:
        archive.writestr(f"../../{ran.name}", b"x")
        archive.writestr(str(ran), b"x")
    (folder / "params.npz").rename(folder / "all.npz")
    with zipfile.ZipFile(folder / "all.npz") as old, zipfile.ZipFile(folder / "params.npz", "w") as new:
        for name in old.namelist():
            new.writestr(f"../{name}", old.read(name))


def a_class_of_its_own(folder: Path, ran: Path) -> None:
    spoil_config(folder, "config.json", trainer_config(dict_class=f"os.system('touch {ran}')"))


def weights_elsewhere(folder: Path, ran: Path) -> None:
    (folder / "sae.safetensors").unlink()
    (folder / "sae.safetensors").symlink_to("/etc/passwd")


def brackets_without_end(folder: Path, ran: Path) -> None:
    spoil_config(folder, "config.json", "[" * 500_000)


HARM = {
    code_in_a_checkpoint: ("dictionary_learning_batch_top_k", "Weights only load failed|UnpicklingError"),
    code_in_a_bare_pickle: ("dictionary_learning_batch_top_k", "no archive of torch.save"),
    code_in_an_array: ("gemma_scope/layer_5/width_32/average_l0_8", "b_dec in it holds object"),
    a_view_of_one_number: ("dictionary_learning_batch_top_k", "more than its bytes"),
    an_array_of_terabytes: ("gemma_scope/layer_5/width_32/average_l0_8", "claims the shape"),
    a_bomb: ("gemma_scope/layer_5/width_32/average_l0_8", "would unpack to 67,108,992 bytes"),
    a_way_out_of_the_folder: ("gemma_scope/layer_5/width_32/average_l0_8", "no item named 'W_enc.npy'"),
    a_class_of_its_own: ("dictionary_learning_batch_top_k", "is not known here"),
    weights_elsewhere: ("sparsify/layers.5", "HeaderTooLarge|header"),
    brackets_without_end: ("dictionary_learning_batch_top_k", "RecursionError|not JSON"),
}


@pytest.mark.parametrize("spoil", HARM, ids=lambda spoil: spoil.__name__)
def test_a_folder_that_means_harm_is_refused_and_runs_nothing(
    spoil: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    source, said = HARM[spoil]
    folder, ran = tmp_path / "in" / "layer_5" / "sae", tmp_path / "ran"
    shutil.copytree(RECORDED / source, folder)
    spoil(folder, ran)
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(ModelError, match=said) as caught:
        load_dictionary(str(folder), LAYER, width=WIDTH)
    assert str(folder) in str(caught.value) and "Nothing in it was run" in str(caught.value)
    assert not ran.exists() and sorted(path for path in tmp_path.rglob("*")) == before


def test_the_harm_is_real(tmp_path: Path) -> None:
    """Loaded as its author hopes, the checkpoint does run."""
    shutil.copytree(RECORDED / FOLDERS[2], tmp_path / "sae")
    code_in_a_checkpoint(tmp_path / "sae", tmp_path / "ran")
    torch.load(tmp_path / "sae/ae.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


ONE = torch.ones(1)
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no number": (lambda f: spoil_pt(f, b_dec=torch.full((WIDTH,), torch.nan)), "b_dec holds 16 values"),
    "a transposed decoder": (lambda f: spoil_pt(f, **{"decoder.weight": torch.ones(32, WIDTH)}), "W_dec has the shape"),
    "a short bias": (lambda f: spoil_pt(f, **{"encoder.bias": torch.ones(31)}), "W_enc has the shape"),
    "whole numbers": (lambda f: spoil_pt(f, b_dec=torch.ones(WIDTH, dtype=torch.int8)), "b_dec holds torch.int8"),
    "no direction": (lambda f: spoil_pt(f, **{"decoder.weight": torch.zeros(WIDTH, 32)}), "norm zero"),
    "no threshold yet": (lambda f: spoil_pt(f, threshold=-ONE[0]), "before its training measured one"),
    "thresholds of others": (lambda f: spoil_pt(f, threshold=torch.ones(7)), "threshold has the shape"),
    "more than weights": (lambda f: spoil_pt(f, note="hello"), "more than tensors"),
    "a missing weight": (lambda f: torch.save({"b_dec": ONE}, f / "ae.pt"), "W_enc"),
    "cut off": (lambda f: (f / "ae.pt").write_bytes((f / "ae.pt").read_bytes()[:3000]), "no archive"),
    "no config": (lambda f: (f / "config.json").unlink(), "is not there"),
    "another place": (
        lambda f: spoil_config(f, "config.json", trainer_config(submodule_name="mlp_out_layer_5")),
        "made for blocks.5.hook_mlp_out",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(case: str, tmp_path: Path) -> None:
    spoil, said = DAMAGE[case]
    shutil.copytree(RECORDED / FOLDERS[2], tmp_path / "sae")
    spoil(tmp_path / "sae")
    with pytest.raises(ModelError, match=said):
        load_dictionary(str(tmp_path / "sae"), LAYER, width=WIDTH)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": 0}, "its k is 0"),
        ({"k": "4"}, "its k is '4'"),
        ({"k": 33}, "it has 32 latents"),
        ({"transcode": True}, "transcoder"),
        ({"activation": "groupmax"}, "only topk"),
    ],
)
def test_a_config_that_cannot_be_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = tmp_path / "layers.5"
    shutil.copytree(RECORDED / "sparsify/layers.5", folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=said):
        load_dictionary(str(folder), LAYER, width=WIDTH)


def test_weights_of_saelens_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    dictionary = load_dictionary(str(RECORDED / FOLDERS[0]), LAYER, width=WIDTH)
    dictionary.sae.save_model(tmp_path)
    assert load_dictionary(str(tmp_path), LAYER, width=WIDTH).d_sae == 32
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file(weights | {"b_enc": torch.full((32,), torch.inf)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ModelError, match="b_enc holds values that are no numbers"):
        load_dictionary(str(tmp_path), LAYER, width=WIDTH)
