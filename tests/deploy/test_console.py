"""What the terminal shows: tables, messages and status."""

from __future__ import annotations

import errno
import os

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
