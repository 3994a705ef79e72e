"""The flags of ``build`` from what targets declare, with targets that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from lmaunet.deploy import target_flags
from lmaunet.deploy.targets import Flag, Missing, Target

ASKED: dict[str, object] = {}


def target(name, options):
    return Target(name, "", list, None, None, None, str, options=options)


def small(
    size: Annotated[float | None, Flag("how large.")] = None,
    names: Annotated[Sequence[str] | None, Flag("which.")] = None,
    shared: Annotated[str | None, Flag("a word.")] = None,
) -> dict:
    return {}


def other(
    fast: Annotated[bool, Flag("be fast.")] = False,
    checked: Annotated[bool | None, Flag("check it.")] = None,
    shared: Annotated[str | None, Flag("another word.")] = None,
    plain=None,
) -> dict:
    return {}


@pytest.fixture
def run(monkeypatch):
    entries = {
        "small": target("small", small), "lost": Missing("lost", "no library"),
        "other": target("other", other),
    }  # fmt: skip
    monkeypatch.setattr(target_flags, "all_targets", lambda: entries)
    app = typer.Typer()

    @app.command()
    @target_flags.takes_target_options
    def build(name: Annotated[str, typer.Option("--name")] = "x", **given):
        """Build it."""
        ASKED.clear()
        ASKED.update(given, name=name)

    return lambda *words: CliRunner().invoke(app, words)


def test_an_option_has_the_type_and_the_help_of_each_target_that_declares_it(run):
    assert target_flags.target_flags() == {
        "size": target_flags.Option("size", float, "small: how large."),
        "names": target_flags.Option("names", list[str], "small: which."),
        "shared": target_flags.Option("shared", str, "small: a word. other: another word."),
        "fast": target_flags.Option("fast", bool, "other: be fast."),
        "checked": target_flags.Option("checked", bool, "other: check it.", undone=True),
        "plain": target_flags.Option("plain", str, "other: "),
    }


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), {}),
        (("--size", "0"), {"size": 0.0}),
        (("--names", "a", "--names", "b"), {"names": ["a", "b"]}),
        (("--fast",), {"fast": True}),
        (("--checked",), {"checked": True}),
        (("--no-checked",), {"checked": False}),
        (("--shared", "", "--name", "y"), {"shared": "", "name": "y"}),
    ],
)
def test_what_was_not_given_is_not_passed_on(run, words, asked):
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert {"name": "x", **asked} == ASKED


@pytest.mark.parametrize("words", [("--size", "a"), ("--no-fast",), ("--odd", "1")])
def test_what_no_target_declares_is_refused(run, words):
    assert run(*words).exit_code == 2
