"""What `--help` says, put together from where it is documented."""

from __future__ import annotations

from autocaft.errors import all_error_types

STAGES: dict[str, str] = {
    "tune": "Fine-tune plainly: what is learned, wanted or not.",
    "collect": "Collect texts and activations: what did tuning change?",
    "decompose": "Decompose into directions: PCs of the change, SAE latents that rank highest.",
    "mine": "Mine the windows of text in which each direction is strongest.",
    "decoys": "Mine random directions that go among the cards of a review; nothing else reads them.",
    "judge": "Judge each direction: describe it, check the description, rate it against the concept.",
    "select": "Select what to ablate.",
    "trial": "Train shortly with parts of the selection ablated (only for arms caft-...-searched).",
    "search": "Choose among those trials: where, how much and how strongly to ablate.",
    "choose": "Take in a person's choice, and the judge's with that person's help (only with select.file).",
    "train": "Train with the selection ablated (CAFT), and the control arms.",
    "evaluate": "Evaluate every arm, ablation removed.",
    "answer": "Let every arm answer free-form questions (only with free_form.questions).",
    "free_form": "Grade those answers: misaligned, coherent, vulnerable, or by rules (only with free_form.grader).",
    "behind": "Look behind each arm: is the cue still readable, and what moved instead? (off by default)",
    "causes": "Ablate each candidate alone: was the judge right about causes? Validation only (off by default).",
    "report": "Write report.html and report.json.",
}
"""The stages in order: subcommands, config tables and folders of a run."""


AUDIT_HELP = """\
Audit many data sets before a model is trained on them: what sets their answers apart from the model's own?

Each set's answers are compared with the model's own answers to the same prompts, on the latents of one dictionary, and
with benign reference sets. The strongest latents of each set are read by the judge and held against the set's purpose.
Nothing is trained, unless the file says depth = "full": then each set that is no reference is trained on for a short
time, and what that adds to the model's behaviour elsewhere is held against what is off the purpose. The same command
again continues.

\b
Out, in the run folder:
  audit.html, audit.json    sets in order of concern, the rule, latents with the rows that carry them
  rows.jsonl                hide, review or keep for each row that was looked at, with reasons
  sets.parquet, concepts.parquet, shared.parquet, screen/effects.parquet

Stages for --redo: rows, own, dictionary, project, screen, peers, shingles, duplicates, mine, judge, report; at depth
full also tune, collect, decompose, windows, meanings, effect (and with full.caft ablated, control).

\b
Exit codes besides those of `autocaft --help`:
  14  done, but some rows or sets could not be read: rows/SET/faults.jsonl names file and line
  15  done, and a set has the verdict of --fail-on, or a worse one
"""


def exit_codes() -> str:
    """One line an exit code, from the first line of each error's documentation."""
    lines = ["\b", "Exit codes:", "  0   done", "  1   an error of autocaft itself: please report it"]
    lines.append("  2   a wrong option")
    for error in all_error_types():
        lines.append(f"  {error.exit_code:<3} {(error.__doc__ or '').strip().splitlines()[0]}")
    return "\n".join([*lines, "  130 stopped by the user (Ctrl-C); the same command continues"])


def stage_help(stage: str) -> str:
    """A stage's help with every key of its config table."""
    from autocaft.config import RunConfig
    from autocaft.rundir.options import describe_fields

    rows = [row for row in describe_fields(RunConfig) if row.key.startswith(f"{stage}.")]
    lines = [STAGES[stage], ""]
    for row in rows:
        default = "required" if row.default is ... else f"default {row.default!r}"
        lines += ["\b", f"{row.key}  ({row.type_text}; {default})", *_wrapped(row.doc), ""]
    return "\n".join(lines)


def _wrapped(text: str, width: int = 100) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
