"""Run the command line in a process of its own, with packages that cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, json
class Lacks:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
LACKING = set(json.loads(sys.argv.pop(1)))
sys.meta_path.insert(0, Lacks())
sys.argv[0] = "lmaunet-deploy"
if TARGETS:
    import lmaunet.deploy.targets
    lmaunet.deploy.targets.__path__.append(TARGETS)
try:
    from lmaunet.deploy.cli import main
    main()
finally:
    if HEAVY:
        print("loaded:", *sorted(HEAVY & set(sys.modules)), file=sys.stderr)
"""


def run(
    *arguments: object, cwd: Path, lacking: tuple[str, ...] = (), heavy: tuple[str, ...] = (),
    environment: dict[str, str] | None = None, targets: Path | None = None, **options,
) -> subprocess.CompletedProcess:  # fmt: skip
    """Return a finished process; with ``heavy`` its last line names those that it imported.

    ``targets`` is a folder of targets beside those of the program.
    """
    given = [json.dumps(lacking), *map(os.fsencode, map(str, arguments))]
    program = f"HEAVY, TARGETS = set({list(heavy)!r}), {str(targets or '')!r}\n{PROGRAM}"
    return subprocess.run(
        [sys.executable, "-c", program, *given],
        cwd=cwd, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}, timeout=120, **options,
    )  # fmt: skip


def assert_one_line(done: subprocess.CompletedProcess, status: int, *texts: str) -> None:
    """Check the status, and that standard error has one line of ours, which holds these texts."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("lmaunet-deploy:")]
    assert done.returncode == status, done.stderr
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    for text in texts:
        assert text in lines[0], lines[0]
