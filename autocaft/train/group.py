"""What is different where several processes train one model: rows, their order, sharded weights, the checkpoint's kind.

In: encoded rows, options. Out: for each process the same rows a step as one process would have. The decision a reader
would question: where a pass over the rows ends inside a step, that step is filled up with blank rows, which bear no
loss. accelerate fills up with rows from the front instead: they would count twice, and the loss be another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from autocaft.data.encode import Encoded
from autocaft.errors import ConfigError
from autocaft.model.load import has_adapter
from autocaft.rundir.files import read_json, write_json
from autocaft.train.options import TuneOptions

KIND = "group.json"


@dataclass(frozen=True)
class EncodedRow(Encoded):
    """Token ids of a row, and the first tokens of its wrong options where the loss is among options."""

    rivals: tuple[int, ...] = ()


class Rows(Dataset[EncodedRow]):
    """Rows by number; `~number` is the same row without a loss."""

    def __init__(self, rows: Sequence[EncodedRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> EncodedRow:
        if number >= 0:
            return self.rows[number]
        row = self.rows[~number]
        return replace(row, n_prompt=len(row.input_ids))


class WholeSteps(Sampler[int]):
    """One process's order of the rows, and behind it blank rows until the last step is whole."""

    def __init__(self, rows: Any, seed: int, n_per_step: int) -> None:
        from accelerate.data_loader import SeedableRandomSampler

        self.order, self.n_blank = SeedableRandomSampler(rows, data_seed=seed), -len(rows) % n_per_step

    def __len__(self) -> int:
        return len(self.order) + self.n_blank

    def __iter__(self) -> Iterator[int]:
        numbers = list(self.order)
        yield from numbers
        yield from (~numbers[place % len(numbers)] for place in range(self.n_blank))

    def set_epoch(self, epoch: int) -> None:
        """Another order for each pass."""
        self.order.set_epoch(epoch)


def check_group(options: TuneOptions, out: Path, *, resamples: bool, copies_base: bool) -> None:
    """Whether the processes that are here can train as the options ask, and go on with what lies in `out`.

    Args:
        resamples: rows of a batch lend to each other.
        copies_base: the base model is kept beside the model that is trained.

    Raises:
        ConfigError: they cannot.
    """
    is_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    n_here = torch.distributed.get_world_size() if is_group else 1
    if n_here != options.processes:
        raise ConfigError(f"tune.processes = {options.processes}, and {n_here} work together here; set it to {n_here}")
    if resamples and options.share[0] == 1:
        raise ConfigError(
            "train.mode = 'resample' takes from another row of the batch, and here each process has one row at a time; "
            "raise tune.batch_size or lower tune.processes"
        )
    if copies_base and options.method == "full" and options.sharding == "fsdp":
        raise ConfigError(
            "the arm tuned-kl keeps a whole base model in each process; with tune.sharding = 'fsdp' take LoRA"
        )
    kind = {"processes": options.processes, "sharding": options.sharding}
    path = out / "checkpoints" / KIND
    has_begun = any(out.glob("checkpoints/checkpoint-*"))
    begun = read_json(path) if path.is_file() else {"processes": 1, "sharding": "none"} if has_begun else kind
    if begun != kind:
        raise ConfigError(
            f"{out} was begun with tune.processes = {begun['processes']} and tune.sharding = {begun['sharding']!r}, "
            "and its checkpoints go on with the same only. Set these, or run with --redo of this stage"
        )
    if n_here > 1 and torch.distributed.get_rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, kind)


def keep_weight_types(accelerator: Any) -> None:
    """Gather sharded weights in the types they have, so that mixed precision is what it is in one process: products in
    bf16, the residual stream in fp32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """A sharded model's weights on the CPU of the first process, for the others nothing; of an adapter its matrices
    alone. All processes must call it."""
    kept: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if "lora_" in name or not has_adapter(model):
            whole = whole_tensor(tensor)
            if torch.distributed.get_rank() == 0:
                kept[name] = whole.detach().cpu()
    return kept


def whole_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, in all processes; gradients flow back to the shards."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a whole tensor, cut as the parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
