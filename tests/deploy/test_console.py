"""What the terminal shows: tables, messages and status."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
import time

import pytest

from lmaunet.deploy import console


def test_columns_of_numbers_are_set_right():
    rows = [["liver", "1,234", "0.5", "3%"], ["a", "5", "10.25", "12%"]]
    assert console.table(["name", "n", "dice", "%"], rows) == [
        "name       n   dice  %",
        "-----  -----  -----  ---",
        "liver  1,234    0.5  3%",
        "a          5  10.25  12%",
    ]
    assert console.table(["a", "bc"], []) == ["a  bc", "-  --"]


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


def test_a_fault_without_words_is_named_by_its_kind(capsys):
    def fail():
        raise ZeroDivisionError

    assert console.run_command(fail) == 1
    err = capsys.readouterr().err
    assert "itself: ZeroDivisionError (at test_console.py:" in err
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
    undecoded = UnicodeDecodeError("utf-8", b"", 0, 1, "x")
    for error in (RuntimeError("memory"), ValueError(""), undecoded, FileNotFoundError(2, "No")):
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
