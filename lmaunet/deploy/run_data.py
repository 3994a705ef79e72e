"""A run's images: loaded when their pixels are needed, and known by their digest before that.

A training, a QAT and a score depend on the pixels that a data set comes to, which takes seconds to
read, decode and resample. ``RUN/.data.json`` notes what the files came to: while they are the same
files, read by the same code, their digest is the same, and a stage that is current is known to be
so in no time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError
from lmaunet.stage import read_json, sha256, source_digest, write_json
from lmaunet.train.processes import process_rank

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset
    from lmaunet.data.nnunet_training import NnunetTraining
    from lmaunet.deploy.runs import DataSource
    from lmaunet.graph_spec import NetworkSpec

NOTE = ".data.json"
READERS = ("h5py", "highdicom", "nibabel", "numpy", "pydicom", "SimpleITK")
"""Packages that pixels depend on."""

HASHED_BYTES = 1 << 30
"""Files of more than this in all are told apart by size and times, not by content."""

SETTLED_SECONDS = 5.0
"""How long ago a file must have been written for its times to tell it from a later one."""


def fingerprint(data: Dataset) -> str:
    """Return the SHA-256 of all of a data set that a training or a score depends on.

    HD95 is in mm of each case's own pixels: a corrected spacing makes a score stale.
    """
    named: list[Any] = [list(data.classes), [str(mm) for mm in data.spacing_mm]]
    named += sorted(
        [str(case), *(str(float(mm)) for mm in spacing)]
        for case, spacing in data.case_spacing_mm.items()
    )
    digest = hashlib.sha256()
    for part in (data.train, data.val):
        named += [part.cases.tolist(), part.z.tolist(), part.images.shape]
        digest.update(part.images.tobytes())
        digest.update(part.labels.tobytes())
    digest.update(json.dumps(named).encode())
    return digest.hexdigest()


TRAINING = "nnunet"
"""The option of a stage that has what nnU-Net did for its network; of its own networks none."""


def training_in(options: Mapping[str, Any]) -> NnunetTraining | None:
    """Return what a stage's options say that nnU-Net did for its network; None for no such."""
    from lmaunet.data.nnunet_training import NnunetTraining

    noted = options.get(TRAINING)
    return None if noted is None else NnunetTraining.from_json(noted)


@dataclass
class RunData:
    """The images of a run.

    Args:
        run: the run's folder.
        source: where they come from.
        spec: the network that they are prepared for.
        training: what nnU-Net did for it, where it trained it: it says how.
    """

    run: Path
    source: DataSource
    spec: NetworkSpec
    training: NnunetTraining | None = None
    _files: str | None = field(default=None, init=False)

    def load(self) -> Dataset:
        """Return the data set, loaded once."""
        return self._loaded

    @functools.cached_property
    def _loaded(self) -> Dataset:
        before = self._files_digest()
        data = self.source.load(self.spec, self.training)
        # files that change while they are read came to nothing that could be noted
        self._files = before if before == self._files_digest() else None
        noted = self.__dict__.get("sha256")
        if noted is not None and noted != fingerprint(data):
            raise UserError(
                f"the data in {self.source.path} changed while the command ran; run it again"
            )
        return data

    @functools.cached_property
    def sha256(self) -> str:
        """The data set's fingerprint: the noted one where the files have not changed since."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            note = read_json(self.run / NOTE)
            files, known = note["files"], note["data_sha256"]
            if isinstance(known, str) and files == self._files_digest():
                return known
        return fingerprint(self.load())

    def remember(self) -> None:
        """Note what the files came to, where they were loaded; called after a stage has used it."""
        if self._files is None or process_rank() != 0:
            return
        # without the note the next command loads the files once more
        with contextlib.suppress(OSError):
            write_json(self.run / NOTE, {"files": self._files, "data_sha256": self.sha256})

    def _files_digest(self) -> str | None:
        """Return the digest of all that :meth:`load` depends on, without reading any pixel.

        None where it cannot be told, such as for files that were written just now.
        """
        try:
            files = _digest_files(self.source)
        except OSError:
            return None
        if files is None:
            return None
        spec = self.spec
        content = {
            "files": files,
            "source": self.source.to_json(),
            "network": [list(spec.input_size), spec.in_channels, spec.classes],
            "training": None if self.training is None else self.training.to_json(),
            "code": [source_digest("lmaunet.data"), source_digest("lmaunet.deploy")],
            "readers": _versions(),
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in READERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _digest_files(source: DataSource) -> str | None:
    """Return a digest of the files of a data source and of what tells them apart."""
    if source.path is None:
        return "phantom"
    files = sorted(_files_of(source.path))
    if source.class_map is not None and source.class_map.is_file():
        files.append(source.class_map)
    states = [file.stat() for file in files]
    hashed = sum(state.st_size for state in states) <= HASHED_BYTES
    if not hashed and max(s.st_ctime for s in states) > time.time() - SETTLED_SECONDS:
        return None
    rows: list[Any] = []
    for file, state in zip(files, states, strict=True):
        name = os.fsencode(os.path.relpath(file, source.path)).hex()
        times = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        rows.append([name, sha256(file) if hashed else times])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _files_of(path: Path) -> Iterator[Path]:
    """Yield every file that a data source may read: all below a folder, both halves of a pair."""
    if not path.is_dir():
        stem = re.sub(r"_(train|val)\.npz$", "", path.name)
        yield from (p for p in path.parent.iterdir() if p.name.startswith(stem) and p.is_file())
        return
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(path, followlinks=True, onerror=_raise):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add((state.st_dev, state.st_ino))
        yield from (p for name in names if (p := Path(folder, name)).is_file())


def _raise(error: OSError) -> None:
    raise error
