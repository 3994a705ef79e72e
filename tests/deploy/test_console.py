"""What the terminal shows: tables, messages and status."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lmaunet.deploy import console
from lmaunet.errors import UserError


def test_columns_of_numbers_are_set_right():
    rows = [["liver", "1,234", "0.5", "3%"], ["a", "5", "10.25", "12%"]]
    assert console.table(["name", "n", "dice", "%"], rows) == [
        "name       n   dice  %",
        "-----  -----  -----  ---",
        "liver  1,234    0.5  3%",
        "a          5  10.25  12%",
    ]
    assert console.table(["a", "bc"], []) == ["a  bc", "-  --"]


def test_a_row_has_a_cell_for_each_column():
    for row in (["liver"], ["liver", "1", "2"]):
        with pytest.raises((IndexError, ValueError)):
            console.table(["name", "n"], [row])


def test_json_is_indented_by_two_and_lines_are_lines(capsys):
    console.show({"a": [1, {"b": None}]}, ["x", "y"], True)
    assert capsys.readouterr().out == (
        '{\n  "a": [\n    1,\n    {\n      "b": null\n    }\n  ]\n}\n'
    )
    console.show({"a": 1}, ["x", "y"], False)
    assert capsys.readouterr().out == "x\ny\n"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError(32, "")])
def test_what_cannot_be_printed_is_said_unless_nobody_reads_it(monkeypatch, tmp_path, error):
    """As soon as it is printed; what either stream still holds goes nowhere."""
    streams = [Full(tmp_path / name, error) for name in ("out", "err")]
    monkeypatch.setattr(console.sys, "stdout", streams[0])
    monkeypatch.setattr(console.sys, "stderr", streams[1])
    if isinstance(error, BrokenPipeError):
        console.show({}, ["line"], False)
    else:
        with pytest.raises(
            UserError, match=r"^the result cannot be printed \(No space left on dev"
        ):
            console.show({}, ["line"], False)
    for stream in streams:
        place = Path(f"/proc/self/fd/{stream.fileno()}").readlink()
        assert str(place) == os.devnull
        os.close(stream.fileno())


class Full(io.StringIO):
    """A stream whose file takes nothing any more."""

    def __init__(self, path, error):
        super().__init__()
        self.number, self.error = os.open(path, os.O_CREAT | os.O_WRONLY), error

    def flush(self):
        raise self.error

    def fileno(self):
        return self.number


FREE = "Free some space or choose another --run folder, then give the same command again"
OTHER = "Give a path that can be used so"


@pytest.mark.parametrize(
    ("number", "move"),
    [
        *((n, FREE) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS,
                              errno.EPERM)),
        *((n, OTHER) for n in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
                               errno.EIO)),
        *((n, None) for n in (errno.ENOENT, errno.EINVAL, errno.EBADF, errno.EEXIST)),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else "",
)  # fmt: skip
def test_what_a_file_system_answers_is_the_users_or_a_fault_of_ours(number, move):
    for name, where in (("runs/x", " (runs/x)"), (None, "")):
        error = OSError(number, os.strerror(number), name)
        text = f"{os.strerror(number)}{where}; finished stages are kept. {move}"
        assert console.explain(error) == ((text, 2) if move else None)


@pytest.mark.parametrize("rank", [None, "0", "1", "2"])
def test_one_process_of_several_tells(monkeypatch, capsys, rank):
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    first = rank in (None, "0")
    console.show({"a": 1}, ["line"], False)
    console.choose_output(verbose=True)
    console.note("noted")
    console.choose_output(verbose=False)
    console.note("not noted")
    with console.progress_bar("work") as report_progress:
        report_progress(0.5, "half")
    out, err = capsys.readouterr()
    assert console.first_process() == first and out == ("line\n" if first else "")
    assert ("noted\n" in err, "work ..." in err, "not noted" in err) == (first, first, False)


def fail():
    raise ZeroDivisionError


FAILS = fail.__code__.co_firstlineno + 1


def test_a_fault_without_words_is_named_by_its_kind(capsys):
    assert console.run_command(lambda: fail()) == 1
    err = capsys.readouterr().err
    assert f"itself: ZeroDivisionError (at test_console.py:{FAILS}); finished" in err
    assert "(at unknown)" in console._fault(ValueError("a\nb"))[0]
    assert "ValueError: a (at" in console._fault(ValueError("a\nb"))[0]


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_a_command_ends_with_its_status(result, status):
    assert console.run_command(lambda: result) == status


def test_a_line_says_the_seconds_since_the_work_began(monkeypatch, capsys):
    """Whole ones while it goes on, tenths at its end."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "LINE_SECONDS", 0.01)
    said, given_up = "", time.perf_counter() + 20
    with console.progress_bar("working") as report:
        report(0.256, "compiling")
        now[0] = 107.64
        while "(8 s)" not in said and time.perf_counter() < given_up:
            said += capsys.readouterr().err
    assert "\n   26%  compiling  (8 s)\n" in said
    assert capsys.readouterr().err.endswith("working: 7.6 s\n")


def test_before_the_first_report_a_line_says_the_title(monkeypatch, capsys):
    monkeypatch.setattr(console, "LINE_SECONDS", 0.01)
    said, given_up = "", time.perf_counter() + 20
    with console.progress_bar("working"):
        while "%" not in said and time.perf_counter() < given_up:
            said += capsys.readouterr().err
    assert "\n    0%  working  (0 s)\n" in said


def test_a_ctrl_c_that_is_ignored_stays_so():
    """A shell does so for a background job."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert console.run_command(lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_may_run_in_another_thread():
    """Only the main one may note signals."""
    found = []
    thread = threading.Thread(target=lambda: found.append(console.run_command(lambda: 7)))
    thread.start()
    thread.join()
    assert found == [7]


def test_an_interrupt_is_noted_while_a_command_runs_and_forgotten_after_it():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        noted = []
        assert console.run_command(lambda: noted.append(signal.getsignal(signal.SIGINT))) == 0
        assert noted == [console._note_interrupt]
        assert console.run_command(lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        console._stop_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory (); "),
        (MemoryError("first\nsecond"), "out of memory (first); "),
        (RuntimeError("a: can't allocate memory: 9\nat x"),
         "out of memory (a: can't allocate memory: 9); "),
    ],
)  # fmt: skip
def test_a_lack_of_memory_is_said_in_its_first_line(error, words):
    text, status = console.explain(error)
    assert text.startswith(f"{words}finished stages are kept. Give a smaller") and status == 2


def test_what_is_no_fault_of_a_user_is_explained_by_nobody():
    for error in (
        RuntimeError("memory"), ValueError(""), FileNotFoundError(2, "No"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "x"), RuntimeError("No usable temporary directory"),
        *(UnicodeEncodeError("utf-8", "x", 0, 1, why) for why in ("an unknown", "unknown")),
    ):  # fmt: skip
        assert console.explain(error) is None


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_keeps_the_bar_and_the_lines_back(monkeypatch, capsys, quiet):
    """And what is not said of how much is shown stays as it was."""
    monkeypatch.setattr(console, "_quiet", False)
    monkeypatch.setattr(console, "_verbose", False)
    console.choose_output(quiet=quiet)
    console.choose_output(verbose=True)
    console.choose_output()
    console.tell("told")
    console.note("noted")
    with console.progress_bar("working") as report:
        report(0.5, "half")
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == (
        ["noted"] if quiet else ["told", "noted", "working ...", "working"]
    )


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("closed file")])
def test_a_stream_that_nobody_reads_any_more_stops_no_work(monkeypatch, error):
    tried = []

    class Closed(io.StringIO):
        def write(self, text):
            tried.append(text)
            raise error

    monkeypatch.setattr(console.sys, "stderr", Closed())
    console.tell("words")
    assert tried == ["words"]
