"""Whether a run's report is that of its results: ``RUN/.report.json`` says what it was made of."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmaunet.stage import read_json, read_manifest, sha256, source_digest, tool_versions, write_json

RECORD = ".report.json"


def report_key(run: Path, folders: Iterable[Path], asked: Any) -> str:
    """Return the digest of all that a report is made of.

    Args:
        run: the run's folder.
        folders: of the measurements, which are current.
        asked: what else the command was given, as plain JSON.
    """
    stages = [run / "qat", run / "control", run / "export", *folders]
    content = {
        "stages": {str(s.relative_to(run)): read_manifest(s)["key"] for s in stages},
        "asked": asked,
        "code": source_digest("lmaunet.deploy"),
        "tools": tool_versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def recorded_report(run: Path, key: str) -> tuple[Path, ...] | None:
    """Return the report's files, where they are whole and of this key; None else."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        record = read_json(run / RECORD)
        files = {run / name: digest for name, digest in record["outputs"].items()}
        if record["key"] == key and all(sha256(f) == digest for f, digest in files.items()):
            return tuple(files)
    return None


def record_report(run: Path, key: str, paths: Iterable[Path]) -> None:
    """Note what a report that was just written was made of."""
    write_json(run / RECORD, {"key": key, "outputs": {p.name: sha256(p) for p in paths}})
