"""One command at a time works on a run; a second one is told so in one line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import runner

from lmaunet.deploy import run_lock
from lmaunet.deploy.run_lock import in_use
from lmaunet.errors import UserError

ROOT = Path(__file__).parents[2]
HOLDS = (
    "import sys, time\nfrom pathlib import Path\nfrom lmaunet.deploy.run_lock import in_use\n"
    "sys.argv = ['/bin/lmaunet-deploy', 'train', '--run', 'my run']\n"
    "with in_use(Path('run')):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another process that holds the run."""
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--phantom"),
        ("demo", "--phantom"),
        ("report",),
        ("measure",),
        ("qat", "--phantom", "--ckpt", "x.pt"),
    ],
    ids=" ".join,
)
def test_the_second_command_is_told_who_works_on_the_run(
    other, tmp_path, monkeypatch, capsys, arguments
):
    (tmp_path / "x.pt").write_bytes(b"x")
    status, out, err = runner(monkeypatch, capsys)(*arguments, "--run", "run")
    lines = [line for line in err.splitlines() if line.startswith("lmaunet-deploy:")]
    assert status == 2 and out == "" and len(lines) == 1, err
    assert (
        f"run is in use by process {other.pid} (lmaunet-deploy train --run 'my run') since "
        in (lines[0])
    )
    assert "wait until it has ended, or name another --run" in lines[0]
    with in_use(tmp_path / "another"):
        pass


def test_a_killed_command_holds_nothing(other, tmp_path):
    with pytest.raises(UserError, match="is in use by process"), in_use(tmp_path / "run"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with in_use(tmp_path / "run"):
        assert (tmp_path / "run" / run_lock.HOLDER).exists()
    assert not (tmp_path / "run" / run_lock.HOLDER).exists()


def test_what_a_kill_left_out_of_place_is_put_back_first(tmp_path):
    """Between two renames, on a file system that exchanges nothing."""
    for stage in (".train.old", "build/.ort.old", "measure/.reference.old"):
        folder = tmp_path / "run" / stage
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    with in_use(tmp_path / "run"):
        for stage in ("train", "build/ort", "measure/reference"):
            assert (tmp_path / "run" / stage / "manifest.json").exists()


def test_the_second_command_is_told_at_once(other, tmp_path, monkeypatch):
    def wait(seconds):
        raise AssertionError(f"it waited for {seconds} s")

    monkeypatch.setattr(time, "sleep", wait)
    with pytest.raises(UserError, match="is in use by process"), in_use(tmp_path / "run"):
        pass


def test_a_run_by_another_name_is_the_same_run(other, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for name in ("link", "./run", "run/../run"):
        with pytest.raises(UserError, match="is in use by"), in_use(Path(name)):
            pass


def test_the_holders_note_may_be_missing_or_damaged(other, tmp_path):
    for content in ("{", "[]", None):
        note = tmp_path / "run" / run_lock.HOLDER
        note.unlink() if content is None else note.write_text(content)
        with (
            pytest.raises(UserError, match="is in use by another command; wait"),
            in_use(tmp_path / "run"),
        ):
            pass


def test_a_command_may_enter_again_and_the_last_one_out_unlocks(tmp_path):
    run = tmp_path / "runs" / "x"
    with in_use(run):
        with in_use(run), in_use(run):
            pass
        assert (run / run_lock.HOLDER).exists()
        (run / "result").write_text("")
    assert sorted(p.name for p in run.iterdir()) == [run_lock.LOCK, "result"]


def test_a_command_that_put_nothing_into_a_run_leaves_none(tmp_path):
    with pytest.raises(ValueError, match="refused"), in_use(tmp_path / "runs" / "x"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with in_use(tmp_path / "empty"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_the_processes_of_one_torchrun_share_the_lock(other, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with in_use(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_is_said_and_worked_on(tmp_path, monkeypatch, capsys):
    import filelock

    def none(*arguments, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with in_use(tmp_path / "run"):
        pass
    err = capsys.readouterr().err
    assert "knows no locks; start no second command" in err and err.count("\n") == 1


def test_a_run_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    import filelock

    def none(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with (
        pytest.raises(UserError, match=r"run cannot be written \(Read-only file system\)"),
        in_use(tmp_path / "run"),
    ):
        pass
