"""Folders of steps at a URL: they come back as they were or not at all, and a node meets nothing old."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import fsspec
import pytest

from autocaft.cli.actions import run_all
from autocaft.errors import AutocaftError, ConfigError, DataError
from autocaft.execute.choose import Executor
from autocaft.execute.mirror import Mirror, version_of
from autocaft.execute.relay import Brought, Errand, Relay
from autocaft.execute.there import There, attempt_there
from autocaft.rundir.files import sha256_of
from autocaft.rundir.progress import QuietProgress
from autocaft.rundir.runner import Elsewhere, Step, StepContext, run_alone, worker_log
from autocaft.rundir.steps import check_is_same, fingerprints

STEP = "train/caft-sae-auto/seed0"


@pytest.fixture(params=["memory", "file"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mirror]:
    yield Mirror(f"memory://bucket{tmp_path}" if request.param == "memory" else f"file://{tmp_path}/bucket")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def bucket(tmp_path: Path) -> Mirror:
    return Mirror(f"file://{tmp_path}/bucket")


def make_folder(folder: Path, text: str = "weights") -> Path:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "a.bin").write_bytes(text.encode() * 5000)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def objects(mirror: Mirror) -> list[Path]:
    return sorted(Path(mirror.url.removeprefix("file://"), "steps").glob("*.tar"))


def test_a_folder_comes_back_as_it_was_and_replaces_what_was_there(mirror: Mirror, tmp_path: Path) -> None:
    mirror.check()
    folder, there = make_folder(tmp_path / STEP), tmp_path / "there" / STEP
    make_folder(there, "old").joinpath("left over").touch()
    version = mirror.put(STEP, folder)
    assert mirror.has(STEP, version) and not mirror.has("train/caft-sae-auto/seed1", version)
    mirror.get(STEP, version, there)
    assert sha256_of(there) == sha256_of(folder)
    assert [item.name for item in folder.parent.iterdir()] == ["seed0"], "no temporary file is left"


def test_a_folder_made_anew_is_another_version_and_the_same_is_put_once(bucket: Mirror, tmp_path: Path) -> None:
    first = bucket.put(STEP, make_folder(tmp_path / "a"))
    times = [path.stat().st_mtime_ns for path in objects(bucket)]
    assert bucket.put(STEP, make_folder(tmp_path / "b")) == first
    assert [path.stat().st_mtime_ns for path in objects(bucket)] == times
    second = bucket.put(STEP, make_folder(tmp_path / "a", "redone"))
    assert second != first
    bucket.get(STEP, second, tmp_path / "there")
    assert (tmp_path / "there" / "metrics.jsonl").read_text() == "redone"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.7])
def test_an_object_that_is_cut_off_is_an_error_that_names_it(share: float, bucket: Mirror, tmp_path: Path) -> None:
    version = bucket.put(STEP, make_folder(tmp_path / "a"))
    (place,) = objects(bucket)
    os.truncate(place, int(place.stat().st_size * share))
    old = make_folder(tmp_path / "there", "old")
    with pytest.raises(DataError, match=f"{place.name} is cut off"):
        bucket.get(STEP, version, old)
    assert version_of(STEP, old) == version_of(STEP, make_folder(tmp_path / "same", "old")), "it is still there"


def test_a_put_that_was_killed_is_put_again(bucket: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = fsspec.filesystem("file")

    def stop(source: str, place: str) -> None:
        Path(place).write_bytes(Path(source).read_bytes()[:100])
        raise KeyboardInterrupt

    folder = make_folder(tmp_path / "a")
    monkeypatch.setattr(local, "put_file", stop)
    with pytest.raises(KeyboardInterrupt):
        bucket.put(STEP, folder)
    monkeypatch.undo()
    assert not bucket.has(STEP, version_of(STEP, folder))
    bucket.get(STEP, bucket.put(STEP, folder), tmp_path / "there")


def member(name: str, **values: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(found, key, value)
    return found


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"),
        member("model/../../evil"),
        member("a", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("a", type=tarfile.SYMTYPE, linkname="metrics.jsonl"),
        member("a", type=tarfile.LNKTYPE, linkname="../evil"),
        member("a", type=tarfile.FIFOTYPE),
    ],
    ids=lambda bad: f"{bad.name} {bad.linkname}",
)
def test_a_link_or_a_path_that_leaves_the_folder_is_refused(
    bad: tarfile.TarInfo, bucket: Mirror, tmp_path: Path
) -> None:
    version = bucket.put(STEP, make_folder(tmp_path / "a"))
    (place,) = objects(bucket)
    with tarfile.open(place, "a") as packed:
        packed.addfile(bad, io.BytesIO())
    with pytest.raises(DataError, match=place.name):
        bucket.get(STEP, version, tmp_path / "deep" / "er" / "there")
    assert not list(tmp_path.rglob("evil")) and not (tmp_path / "deep" / "er" / "there").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "nope://bucket/a",
            r"nope://bucket/a: Protocol not known: nope.* installed here and on every node: s3fs for s3",
        ),
        ("file:///dev/null/a", r"file:///dev/null/a: .* cannot be read or written from .* credentials of its own"),
    ],
)
def test_a_place_that_cannot_be_is_said_before_anything_runs(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Mirror(url).check()


def test_a_driver_that_is_not_installed_is_named() -> None:
    fsspec.register_implementation("lent", "nowhere.LentFileSystem", clobber=True, errtxt="Install lentfs")
    with pytest.raises(ConfigError, match="Install lentfs"):
        Mirror("lent://bucket/a").check()


@pytest.mark.parametrize("url", ["bucket/a", "/data/a", "file://a", "s3:bucket", "s3://"])
def test_only_a_url_that_is_the_same_everywhere_is_taken(url: str) -> None:
    with pytest.raises(ConfigError, match="means the same on every node"):
        Executor.of("ray", None, None, None, url)


def test_a_password_in_the_url_is_refused_and_not_told_again() -> None:
    with pytest.raises(ConfigError, match="FSSPEC_PROTOCOL_PASSWORD") as refused:
        Executor.of("ray", None, None, None, "sftp://me:secret@host/a")
    assert "secret" not in str(refused.value)
    assert Executor.of("ray", None, None, None, "abfs://box@account.dfs.core.windows.net/a").mirror is not None


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--mirror are for --executor ray"):
        Executor.of("local", None, None, None, "s3://bucket/a")
    executor = Executor.of("ray", None, None, None, "s3://bucket/a")
    with pytest.raises(ConfigError, match="a look at a final split is written down where the run is started"):
        run_all(
            "quickstart", overrides=(), redo=set(), name=None, runs=tmp_path, final=True, executor=executor, source=None
        )


NEEDS = {"tune": (), "collect": ("tune",), "train/a": ("collect",)}


def work(name: str, told: dict[str, str], context: StepContext) -> None:
    """Count how often the step was begun in this folder; train/a reads tune, which it needs through collect."""
    count = context.out / "n"
    count.write_text(str(int(count.read_text()) + 1 if count.is_file() else 1))
    if name == "train/a":
        (context.out / "read").write_text((context.dir_of("tune") / "out").read_text())
    context.progress.say(f"{name} writes")
    (context.out / "out").write_text(told.get(name, "as ever"))
    if told.get(name) == "fail":
        raise DataError("row 7 is bad")


def make_steps(told: dict[str, str], inputs: dict[str, str]) -> list[Step]:
    return [
        Step(name, name.partition("/")[0], {}, inputs, needs, 1, partial(work, name, told))
        for name, needs in NEEDS.items()
    ]


def run_one(
    told: dict[str, str],
    inputs: dict[str, str],
    run_dir: Path,
    name: str,
    elsewhere: Elsewhere | None = None,
    /,
) -> None:
    run_alone(make_steps(told, inputs), name, run_dir, QuietProgress(worker_log(run_dir)), elsewhere)


DATA = {"data.train (rows.jsonl)": "a" * 64}
Go = Callable[..., Errand]


@pytest.fixture
def go(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """`go("tune", node="n1", told={})`: the step as a node does it and the run's own machine takes it."""

    def begin(step: str, node: str, told: dict[str, str] | None = None, data: dict[str, str] = DATA) -> Errand:
        monkeypatch.setenv("AUTOCAFT_CACHE", str(tmp_path / node))
        monkeypatch.chdir(tmp_path)
        relay = Relay(mirror, make_steps({}, DATA), tmp_path / "runs" / "tiny")
        errand = relay.errand(step)
        (error, _, _), brought = attempt_there(
            There.of(partial(run_one, told or {}, data), relay.run_dir, errand), step
        )
        assert isinstance(brought, Brought)
        relay.keep_log(brought)
        if error is not None:
            raise error
        relay.take(step, brought)
        return errand

    return begin


def written(tmp_path: Path, step: str, name: str = "n") -> str:
    return (tmp_path / "runs" / "tiny" / step / name).read_text()


def test_a_node_gets_what_a_step_reads_and_the_run_gets_what_it_made(go: Go, tmp_path: Path) -> None:
    go("tune", "n1", {"tune": "first"})
    go("collect", "n1")
    there = go("train/a", "n2").scratch
    assert written(tmp_path, "train/a", "read") == "first"
    assert (there / "tune").is_dir() and not (there / "collect").exists(), "nobody read it"
    log = (tmp_path / "runs" / "tiny" / f"log.{os.uname().nodename}.txt").read_text()
    assert [line.partition(" ")[2] for line in log.splitlines()] == [f"{step} writes" for step in NEEDS]
    assert not list(tmp_path.rglob(".begun*")) and not list(tmp_path.rglob(".autocaft-tmp-*"))


def test_what_was_begun_on_a_node_is_continued_there(go: Go, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)on node .*row 7 is bad.*must be there on every node"):
        go("tune", "n1", {"tune": "fail"})
    go("tune", "n1")
    assert written(tmp_path, "tune") == "2"


def test_a_redo_meets_nothing_old_on_any_node(go: Go, tmp_path: Path) -> None:
    go("tune", "n1", {"tune": "first"})
    go("collect", "n1")
    go("train/a", "n2")
    with pytest.raises(DataError):
        go("collect", "n2", {"collect": "fail"})
    for step in NEEDS:
        for path in sorted((tmp_path / "runs" / "tiny" / step).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    go("tune", "n1", {"tune": "second"})
    go("collect", "n2")
    go("train/a", "n2")
    assert [written(tmp_path, step) for step in NEEDS] == ["1", "1", "1"]
    assert written(tmp_path, "train/a", "read") == "second"


def test_what_was_made_without_a_mirror_is_put_first(go: Go, mirror: Mirror, tmp_path: Path) -> None:
    for step in ("tune", "collect"):
        folder = tmp_path / "runs" / "tiny" / step
        folder.mkdir(parents=True)
        (folder / "out").write_text("made here")
    go("train/a", "n1")
    assert written(tmp_path, "train/a", "read") == "made here"


def test_a_node_with_other_data_is_refused(go: Go, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)tune is not the same here.*data.train.*sha256 aaa.* -> bbb.*every node"
    ):
        go("tune", "n1", data={"data.train (rows.jsonl)": "b" * 64})
    assert not (tmp_path / "runs" / "tiny" / "tune" / "n").exists()


def test_a_need_that_is_another_one_on_a_node_is_named() -> None:
    tune, *others = make_steps({}, DATA)
    here = fingerprints([replace(tune, version=2), *others])
    expected = fingerprints([tune, *others])
    with pytest.raises(ConfigError, match=r"collect is not the same here .*\n  tune, which it needs"):
        check_is_same(others[0], expected["collect"], here["collect"])
    check_is_same(tune, expected["tune"], fingerprints([tune])["tune"])


def test_a_node_that_lost_its_folder_says_what_is_missing(go: Go, mirror: Mirror, tmp_path: Path) -> None:
    go("tune", "n1")
    place = mirror._object("tune", version_of("tune", tmp_path / "runs" / "tiny" / "tune"))
    mirror._place[0].rm(place)
    go("collect", "n1")
    with pytest.raises(AutocaftError, match=Path(place).name):
        go("train/a", "n2")
