"""Run the command line inside the test process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from lmaunet.deploy.cli import main


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Return ``run(*arguments) -> (exit status, standard output, standard error)``."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lmaunet-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run
