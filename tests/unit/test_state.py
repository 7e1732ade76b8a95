"""``--state``: one run at a time has a folder; a bounded run starts over, with the offsets of its first start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import config, state
from jobs.anomaly_cost import main
from jobs.environment import CHECKPOINT_INTERVAL, NEVER
from jobs.errors import UsageError
from jobs.kafka import Extent, KafkaInput

# Takes the folder, says so, and waits to be told to go on as another program with the same lock.
HOLD = """
import os, sys
from pathlib import Path
from jobs import state
folder = Path(sys.argv[1])
with state.folder(folder, None):
    print("locked", flush=True)
    sys.stdin.readline()
    state.hand_on_lock(folder)
    os.execv(sys.executable, [sys.executable, "-c", {then!r}, sys.argv[1]])
"""
THEN = """
import sys
print("another program", flush=True)
sys.stdin.readline()
from pathlib import Path
from jobs import state
with state.folder(Path(sys.argv[1]), None):
    print("locked again", flush=True)
    sys.stdin.readline()
"""
TAKE = """
import sys
from pathlib import Path
from jobs import state
with state.folder(Path(sys.argv[1]), None):
    pass
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=THEN), str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _is_locked(folder: Path) -> bool:
    """For a process of its own: one may take its own folder again."""
    done = subprocess.run([sys.executable, "-c", TAKE, str(folder)], capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) != ("another run uses it" in done.stderr), done.stderr
    return done.returncode != 0


def test_a_folder_is_locked_until_its_run_ends_however_it_ends(holder: subprocess.Popen, tmp_path: Path) -> None:
    """... and while another program takes the place of the run."""

    def says(what: str) -> None:
        assert holder.stdout.readline().strip() == what

    def go_on() -> None:
        holder.stdin.write("\n")
        holder.stdin.flush()

    says("locked")
    assert _is_locked(tmp_path)
    go_on()
    says("another program")
    assert _is_locked(tmp_path)
    go_on()
    says("locked again")
    assert _is_locked(tmp_path)
    holder.kill()
    holder.wait()
    assert not _is_locked(tmp_path)


def test_a_second_run_exits_1_with_one_line(
    holder: subprocess.Popen, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert holder.stdout.readline().strip() == "locked"
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces/a.jsonl").write_text("{}")
    argv = ["--input", str(tmp_path), "--output", str(tmp_path / "tables"), "--state", str(tmp_path)]
    assert main([*argv, "--set", "detector=usual"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1
    assert "another run uses it" in told.err


def _loaded(tmp_path: Path, *more: str) -> config.Config:
    argv = ["--input", "kafka://h:9092", "--output", "kafka://h:9092", "--state", str(tmp_path)]
    return config.load([*argv, "--set", "detector=usual", *more])


def test_a_bounded_run_starts_over_and_one_without_end_goes_on(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints/job/chk-7"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_metadata").touch()
    assert state.settings(_loaded(tmp_path), tmp_path)[state.RECOVERY] == f"file://{checkpoint}"
    bounded = _loaded(tmp_path, "--bounded")
    assert state.settings(bounded, tmp_path) == {CHECKPOINT_INTERVAL: NEVER}
    assert [key for key in state.checkpointing(bounded) if "checkpointing" in key] == [CHECKPOINT_INTERVAL]
    asked = _loaded(tmp_path, "--bounded", "--set", f"{CHECKPOINT_INTERVAL}=1 s")
    for kept in (state.settings(asked, tmp_path), state.checkpointing(asked)):
        assert (asked.engine | kept)[CHECKPOINT_INTERVAL] == NEVER


def test_of_a_state_folder_only_what_a_later_run_needs_is_kept(tmp_path: Path) -> None:
    """The last checkpoint with what it shares; not those before it, nor what the engine spilled."""
    checkpoints = tmp_path / "checkpoints"
    for number, name in enumerate(["old/chk-3", "new/chk-6", "new/chk-7", "killed/chk-1"]):
        (checkpoints / name).mkdir(parents=True)
        if name != "killed/chk-1":
            metadata = checkpoints / name / "_metadata"
            metadata.touch()
            os.utime(metadata, (number, number))
    for name in ("new/shared", "old/shared"):
        (checkpoints / name).mkdir()
    for name in ("changes", "engine", "input"):
        (tmp_path / name).mkdir()
    with state.folder(tmp_path, None) as scratch:
        assert scratch == tmp_path
        left = {str(path.relative_to(checkpoints)) for path in checkpoints.rglob("*")}
        assert left == {"new", "new/chk-7", "new/chk-7/_metadata", "new/shared"}
        (scratch / "engine").mkdir()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "lock"}


def test_a_passing_folder_goes_and_so_does_one_of_a_run_that_was_killed(tmp_path: Path) -> None:
    left = tmp_path / ".anomaly_cost-left"
    left.mkdir()
    (left / "lock").touch()
    with state.folder(None, tmp_path) as scratch:
        assert [path.name for path in tmp_path.iterdir()] == [scratch.name]
    assert not list(tmp_path.iterdir())


@pytest.fixture
def grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that gets a record between any two questions."""
    ends = iter(range(7, 99))

    def ask(self: KafkaInput) -> dict[str, Extent]:
        return {"otlp_spans": Extent({0: next(ends), 1: 0}), "otlp_logs": Extent({0: 3}, {0: 2})}

    monkeypatch.setattr(KafkaInput, "ask_extents", ask)


def test_a_bounded_run_reads_to_the_offsets_of_its_first_start(grows: None, tmp_path: Path) -> None:
    source = KafkaInput("h:9092", bounded=True)
    first = state.extents(source, tmp_path)
    assert first == {"otlp_spans": Extent({0: 7, 1: 0}), "otlp_logs": Extent({0: 3}, {0: 2})}
    assert state.extents(source, tmp_path) == first
    state.forget_extents(tmp_path)
    assert state.extents(source, tmp_path)["otlp_spans"].ends[0] == 8


def test_offsets_of_another_input_are_not_taken(grows: None, tmp_path: Path) -> None:
    state.extents(KafkaInput("h:9092", bounded=True), tmp_path)
    with pytest.raises(UsageError, match="kafka://h:9092 from earliest"):
        state.extents(KafkaInput("other:9092", bounded=True), tmp_path)
