"""Steps that a Ray worker can import by name: they tell what they see, or die."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from autocaft.rundir.progress import NullProgress
from autocaft.rundir.runner import Elsewhere, Step, StepContext, run_alone


def die_always(run_dir: Path, name: str, elsewhere: Elsewhere | None = None, /) -> None:
    with (run_dir / "begun").open("a") as file:
        file.write(f"{name}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def tell(name: str, context: StepContext) -> None:
    """What a step sees: keys, GPU, the store, and how far its process gives way to others."""
    keys = [key for key in ("NONE_API_KEY", "MY_SECRET", "HF_TOKEN") if key in os.environ]
    store = "" if context.opened is None else context.opened.path.name
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "as it is")
    (context.out / "out").write_text("|".join([",".join(keys), gpu, store, str(os.nice(0))]))


def telling_steps() -> list[Step]:
    uses = {"tune": {}, "select": {"uses_model": False}, "judge": {"uses_store": True}}
    return [Step(name, name, {}, {}, (), 1, partial(tell, name), **flags) for name, flags in uses.items()]


def tell_one(run_dir: Path, name: str, elsewhere: Elsewhere | None = None, /) -> None:
    run_alone(telling_steps(), name, run_dir, NullProgress(), elsewhere)
