"""The order of depth `full`, after the screen's steps of each set that is no reference:

    rows/SET -> tune/SET -> collect/SET -> decompose/SET -> windows/SET -> meanings/SET
             (-> ablated/SET, control/SET: only with full.caft) -> effect/SET -> report

In: an audit. Out: the steps. Those of different sets can run at the same time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from autocaft.rundir.steps import Step, step_of

if TYPE_CHECKING:
    from autocaft.audit.options import AuditSet
    from autocaft.audit.run import Audit
    from autocaft.rundir.runner import StepContext

VERSION_BY_STAGE = {
    "tune": 1,
    "collect": 1,
    "decompose": 1,
    "windows": 1,
    "meanings": 1,
    "ablated": 2,
    "control": 2,
    "effect": 2,
}
"""Counted up when a stage's code changes what it writes."""


def trained_sets(audit: Audit) -> list[AuditSet]:
    """The sets that depth full trains on."""
    return [chosen for chosen in audit.sets if not chosen.is_reference] if audit.config.depth == "full" else []


def full_steps(audit: Audit, readers: dict[str, str], corpus: dict[str, str], weights: dict[str, str]) -> list[Step]:
    """All steps of depth full, set by set.

    Args:
        readers: identity of whoever judges.
        corpus, weights: identity of the generic text and of the model.
    """
    return [step for chosen in trained_sets(audit) for step in _steps_of(audit, chosen, readers, corpus, weights)]


def _steps_of(
    audit: Audit, chosen: AuditSet, readers: dict[str, str], corpus: dict[str, str], weights: dict[str, str]
) -> list[Step]:
    config, name = audit.config, chosen.name
    full = config.full

    def of(*keys: str) -> dict[str, Any]:
        return {"full": {key: getattr(full, key) for key in keys}}

    def step(stage: str, options: dict[str, Any], files: dict[str, str], *needs: str, **flags: Any) -> Step:
        call = partial(_run, audit, chosen, stage)
        return step_of(VERSION_BY_STAGE, f"{stage}/{name}", call, options, files, *needs, **flags)

    tuning = of("epochs", "lr", "batch_size", "autocast", "every_held_out") | {
        "dtype": config.dtype,
        "seed": config.seed,
    }
    text = of("n_generic") | {"layers": config.layers, "n_generic": config.n_generic, "seed": config.seed}
    limits = {key: getattr(config.verdict, key) for key in ("off_purpose", "unwanted")}
    flagging = of("n_directions") | {"verdict": limits}
    asked = {"judge": config.judge, "purpose": chosen.purpose, "concept": chosen.concept}
    pays = bool(config.judge.chat_readers)
    flagging["full"] |= of("basis")["full"]
    again = {**tuning, **flagging, "full": tuning["full"] | flagging["full"]}
    probing = flagging | {"full": flagging["full"] | of("n_probes", "caft")["full"], "n_generic": config.n_generic}
    retrained = ("ablated", "control") if full.caft else ()
    return [
        step("tune", tuning, weights, f"rows/{name}"),
        step("collect", text, corpus, f"tune/{name}"),
        step("decompose", of("n_candidates", "n_pcs"), {}, f"collect/{name}", "dictionary"),
        step("windows", {}, {}, f"decompose/{name}", uses_model=False),
        step("meanings", asked, readers, f"windows/{name}", uses_store=pays),
        *(step(stage, again, {}, f"meanings/{name}") for stage in retrained),
        step("effect", probing, corpus, f"meanings/{name}", *(f"{stage}/{name}" for stage in retrained)),
    ]


def _run(audit: Audit, chosen: AuditSet, stage: str, context: StepContext) -> None:
    from autocaft.audit.full import FullSet

    getattr(FullSet(audit, chosen), stage)(context)
