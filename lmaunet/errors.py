"""The errors that reach a user, each with the exit status of the command that met it.

A message says what is wrong, what was got, what was expected and the next move, for example
``PE=3 does not divide channels=64; use 1, 2, 4, 8, 16, 32 or 64``.
"""


class UserError(Exception):
    """Bad usage or bad input (exit status 2)."""

    exit_status = 2


class ToolNotFound(UserError):
    """A tool that the command needs is missing (exit status 3).

    Args:
        tool: what is missing, for example ``tensorrt-rtx``.
        why: what it is needed for.
        fix: the command that installs it.
    """

    exit_status = 3

    def __init__(self, tool: str, why: str, fix: str) -> None:
        self.tool, self.why, self.fix = tool, why, fix
        super().__init__(f"{tool} is missing: it is needed {why}; {fix}")


class Disagreement(Exception):
    """Two forms of the same network computed different results (exit status 1)."""

    exit_status = 1
