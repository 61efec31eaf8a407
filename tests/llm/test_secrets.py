"""Canaries: no secret in the run folder, on stdout or on stderr, wherever it was put."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_vendor import Answer, Asked, serving
from planted import truthful

CANARY = "canary-0f9e8d7c6b5a-not-a-usual-key"
CHILD = """
import logging
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
from planted import direction, planted
from autocaft.cli import main
from autocaft.judge import stage
from autocaft.judge.options import JudgeOptions
from autocaft.rundir.progress import Log, QuietProgress
from autocaft.rundir.steps import Step
from autocaft.rundir.runner import run_steps
import autocaft.cli.app

def judge(context):
    options = JudgeOptions(undesired="gender", wanted="case", judge=sys.argv[2] + ":m", base_url=sys.argv[3],
                           api_key_env="SOME_SECRET", timeout_s=5, patience_s=3, hard_negatives=False)
    stage.judge_directions(
        directions=[direction("L14.latent1")], examples=planted("L14.latent1", "gender"), options=options,
        judge=stage.make_judge(options, store=context.store), out=context.out, progress=context.progress)
    if sys.argv[5] == "raise":
        import os
        raise RuntimeError("in an exception: " + os.environ["SOME_SECRET"])

def app():
    logging.basicConfig(level=logging.DEBUG)
    folder = Path(sys.argv[4])
    step = Step("judge", "judge", {}, {}, (), 1, judge, uses_store=True)
    run_steps([step], folder, set(), QuietProgress(Log(folder / "log.txt")))
autocaft.cli.app.app = app
main()
"""


def judged(vendor: str, url: str, folder: Path, how: str = "") -> subprocess.CompletedProcess[str]:
    """A judge step in a process of its own, with every debug switch of the SDKs on."""
    tests = Path(__file__).parents[1]
    environment = os.environ | {"SOME_SECRET": CANARY, "OPENAI_LOG": "debug", "ANTHROPIC_LOG": "debug"}
    address = url + ("/v1" if vendor == "openai" else "")
    arguments = [f"{tests / 'judge'}:{tests / 'llm'}", vendor, address, str(folder), how]
    return subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, env=environment)


def hits(folder: Path, result: subprocess.CompletedProcess[str]) -> list[str]:
    """Where the canary is."""
    files = [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    return files + [name for name in ("stdout", "stderr") if CANARY in getattr(result, name)]


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
@pytest.mark.parametrize("case", ["good", "echoed in a reply", "echoed in a 401", "echoed in a 400", "in an exception"])
def test_a_key_is_nowhere(vendor: str, case: str, tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        if case == "echoed in a reply":
            return Answer(f"your key is {CANARY}")
        if case.startswith("echoed in a 4"):
            return Answer(status=int(case[-3:]), error=f"wrong key {CANARY}", headers={"x-key": CANARY})
        return truthful(asked)

    with serving(script) as server:
        result = judged(vendor, server.url, tmp_path, "raise" if case == "in an exception" else "")
        assert any(CANARY in value for value in server.asked[0].headers.values()), "the key was never sent"
    assert hits(tmp_path, result) == []
    assert (result.returncode == 0) == (case in ("good", "echoed in a reply", "echoed in a 400")), result.stderr
    assert "first requests" not in result.stderr
    if case != "good":
        assert (tmp_path / "run.sqlite").is_file()


@pytest.mark.parametrize(
    "override",
    [
        f"judge.api_key={CANARY}",
        f"judge.api_key_env={CANARY}",
        f"judge.base_url=http://user:{CANARY}@127.0.0.1/v1",
        f"judge.base_url=http://127.0.0.1/v1?key={CANARY}",
    ],
)
def test_a_key_in_the_config_is_refused_without_being_shown(override: str, tmp_path: Path) -> None:
    code = "from autocaft.cli import main; main()"
    commands = [["plan", "quickstart", "--set", override], ["run", "quickstart", "--set", override]]
    config = tmp_path / "with_key.toml"
    base = (Path(__file__).parents[2] / "autocaft/recipes/quickstart.toml").read_text()
    key, _, value = override.removeprefix("judge.").partition("=")
    config.write_text(base.replace("[judge]", f'[judge]\n{key} = "{value}"'))
    for command in [*commands, ["run", str(config)]]:
        result = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 3, result.stderr
        assert CANARY not in result.stdout + result.stderr
    assert not (tmp_path / "runs").exists()
