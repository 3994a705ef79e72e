"""A stage's folder in a run: written whole or not at all, with a manifest, resumed by digest.

``runs/NAME/STAGE/`` holds a stage's results and ``manifest.json``: what went in (digests), what
came out (digests), the options, the seed, the command and the versions of the tools. A stage
writes into ``.STAGE.partial`` beside it and is moved into place at the end, so that a killed
command leaves either the old result or the new one (see :mod:`lmaunet.exchange`).
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.errors import UserError
from lmaunet.exchange import recover, swap

SCHEMA = 1
TOOLS = (
    "lmaunet-deploy", "torch", "brevitas", "onnx", "onnxruntime", "qonnx", "numpy", "monai",
    "finn-plus", "tensorrt-rtx-cu13", "openvino",
)  # fmt: skip


SOURCES = frozenset({".cpp", ".hpp", ".py", ".sv", ".tcl"})
"""The suffixes of files that a package computes with."""

KEY = ".key"
"""The file in an unfinished folder that says which result it is going to be."""


DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What reading JSON and arrays raises where they are not those that were written."""


class DamagedStage(UserError):
    """A stage's folder does not hold what the stage wrote."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of every file of a folder in order of name, in hex."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            # with its length each, or a name that grows by what its content loses is not seen
            name = os.fsencode(file.relative_to(path))
            digest.update(b"%d %d " % (len(name), file.stat().st_size) + name)
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def tool_versions() -> dict[str, str]:
    """Return the installed versions of the packages that a result can depend on."""
    found = {}
    for name in TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found["python"] = ".".join(map(str, sys.version_info[:3]))
    return found


@functools.cache
def source_digest(package: str) -> str:
    """Return the SHA-256 of an installed package's sources, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package {package} is not installed; install lmaunet-deploy again")
    digest = hashlib.sha256()
    root = Path(next(iter(spec.submodule_search_locations)))
    for path in sorted(p for p in root.rglob("*") if p.suffix in SOURCES):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of ours; raises ValueError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON to ``path`` atomically: the old file stays until the new one is complete."""
    write_texts({path: json.dumps(content, indent=2, sort_keys=False) + "\n"})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write files in UTF-8, atomically each; none is touched before all are written beside theirs.

    A disk that fills thus leaves all the old ones.
    """
    partial = {path: path.with_name(f".{path.name}.partial") for path in texts}
    try:
        for path, text in texts.items():
            partial[path].write_text(text, encoding="utf-8")
        for path in texts:
            partial[path].replace(path)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Stage:
    """One stage of one run.

    Args:
        run: the run's folder.
        name: the stage's name, which is its folder in the run (``train``, ``build/trt`` ...).
        inputs: files and folders that go in, by name.
        options: every option that changes the result; must be plain JSON.
        seed: the random seed, where the stage uses one.
        code: packages whose source determines the result too. Cheap stages name theirs, so that a
            changed program does not show an old result; training does not.
    """

    run: Path
    name: str
    inputs: Mapping[str, Path]
    options: Mapping[str, Any]
    seed: int | None = None
    code: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The stage's folder when it is complete."""
        return self.run / self.name

    @property
    def partial(self) -> Path:
        """Where the stage writes until it is complete; training checkpoints survive in it."""
        return partial_of(self.folder)

    def key(self) -> str:
        """Return the digest of all that determines the result."""
        for name, path in self.inputs.items():
            if not path.exists():
                raise UserError(f"{self.name}: {name} {path} does not exist")
        content = {
            "schema": SCHEMA,
            "inputs": {name: sha256(path) for name, path in sorted(self.inputs.items())},
            "options": dict(self.options),
            "seed": self.seed,
            "tools": tool_versions(),
            "code": {name: source_digest(name) for name in self.code},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def is_current(self) -> bool:
        """Tell whether the folder holds the result of exactly these inputs and options, whole.

        A damaged result is none: the stage is run again.
        """
        recover_stage(self.folder)
        return _holds(self.folder, self.key())

    def is_of_same_inputs(self, ignoring: tuple[str, ...] = ()) -> bool:
        """Tell whether the folder holds, whole, a result of these inputs, options and seed.

        The program, the tools and the options named in ``ignoring`` may have been others: this is
        for a machine that cannot make the result again.
        """
        recover_stage(self.folder)
        try:
            manifest = read_stage(self.folder)
        except UserError:
            return False
        made_of = {name: entry.get("sha256") for name, entry in manifest["inputs"].items()}
        chosen, ours = (
            {name: value for name, value in options.items() if name not in ignoring}
            for options in (manifest["options"], self.options)
        )
        same = chosen == ours and manifest.get("seed") == self.seed
        return same and made_of == {name: sha256(path) for name, path in self.inputs.items()}

    def write(self, work: Callable[[Path], None], *, resume: bool = False) -> Path:
        """Run ``work(folder)`` into a fresh partial folder and move the result into place.

        Args:
            work: writes the stage's files into the folder that it is given.
            resume: keep the partial folder of an interrupted run with the same key, and leave it
                behind when this one is interrupted.
        """
        key = self.key()
        recover_stage(self.folder)
        if not _holds(self.partial, key):
            self._make(work, key, resume)
        # else a command was killed when all was done but for this
        (self.partial / KEY).unlink(missing_ok=True)
        swap(self.partial, self.folder)
        return self.folder

    def _make(self, work: Callable[[Path], None], key: str, resume: bool) -> None:
        with _partial_folder(self.partial, key, resume) as partial:
            work(partial)
            outputs = sorted(p for p in partial.rglob("*") if p.is_file() and p != partial / KEY)
            write_json(
                partial / "manifest.json",
                {
                    "schema": SCHEMA,
                    "stage": self.name,
                    "key": key,
                    "command": " ".join(sys.argv),
                    "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    "seed": self.seed,
                    "options": dict(self.options),
                    "inputs": {
                        n: {"path": str(p), "sha256": sha256(p)} for n, p in self.inputs.items()
                    },
                    "outputs": {str(p.relative_to(partial)): sha256(p) for p in outputs},
                    "tools": tool_versions(),
                },
            )

    def clear(self) -> None:
        """Remove what a killed command left beside a current result, but no work to go on from."""
        if self.partial.exists() and not (self.partial / KEY).exists():
            shutil.rmtree(self.partial, ignore_errors=True)


def partial_of(folder: Path) -> Path:
    """Return where a stage's folder is written until it is complete."""
    return folder.with_name(f".{folder.name}.partial")


def recover_stage(folder: Path) -> None:
    """Put a stage's folder in its place where a killed command left the place empty."""
    partial = partial_of(folder)
    finished = (partial / "manifest.json").exists() and not (partial / KEY).exists()
    recover(folder, partial if finished else None)


def recover_run(run: Path) -> None:
    """Put every stage's folder of a run in its place; see :func:`recover_stage`."""
    for folder in (run, run / "build", run / "measure"):
        for old in folder.glob(".*.old"):
            recover_stage(folder / old.name.removeprefix(".").removesuffix(".old"))


def _holds(folder: Path, key: str) -> bool:
    """Tell whether a folder holds a stage of this key, whole."""
    if not (folder / "manifest.json").exists():
        return False
    try:
        return read_stage(folder)["key"] == key
    except DamagedStage:
        return False


@contextlib.contextmanager
def _partial_folder(partial: Path, key: str, resume: bool) -> Iterator[Path]:
    marker = partial / KEY
    if partial.exists() and not (
        resume and marker.exists() and marker.read_text(encoding="utf-8", errors="replace") == key
    ):
        # first: what is left of a folder that is removed in part is never taken for the whole
        marker.unlink(missing_ok=True)
        shutil.rmtree(partial)
    made = [folder for folder in (partial.parent, partial.parent.parent) if not folder.exists()]
    try:
        partial.mkdir(parents=True, exist_ok=True)
        marker.write_text(key, encoding="utf-8")
        # halves of files, and a manifest of what is going to be written again
        for left in [*partial.rglob(".*.partial"), partial / "manifest.json"]:
            left.unlink(missing_ok=True)
        yield partial
    except BaseException:
        # what was refused before it began leaves nothing to go on from
        if not resume or all(p == marker for p in partial.glob("*")):
            shutil.rmtree(partial, ignore_errors=True)
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only where it is empty
        raise


def read_manifest(folder: Path, command: str | None = None) -> dict[str, Any]:
    """Return a stage's manifest.

    Args:
        folder: the stage's.
        command: what mends it, for messages; the command that makes a stage of a run, if not given.

    Raises:
        UserError: where there is none, it is damaged, or another version wrote it.
    """
    path, command = folder / "manifest.json", command or command_of(folder)
    if not path.exists():
        raise UserError(
            f"{folder} holds no finished {folder.name!r} stage; run that stage first ({command})"
        )
    try:
        manifest = read_json(path)
        schema = manifest["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedStage(
            f"{path} is damaged ({error}); run the stage again: {command}"
        ) from error
    if schema != SCHEMA:
        raise UserError(
            f"{path} has schema {schema}, expected {SCHEMA}: another version wrote this run; "
            "use a new --run folder, or that version"
        )
    kinds = {"key": str, "options": dict, "inputs": dict, "outputs": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]
    if "inputs" not in wrong and not all(isinstance(i, dict) for i in manifest["inputs"].values()):
        wrong.append("inputs")
    if wrong:
        raise DamagedStage(
            f"{path} is damaged (no usable {wrong[0]!r}); run the stage again: {command}"
        )
    return manifest


def read_stage(folder: Path, command: str | None = None) -> dict[str, Any]:
    """Return the manifest of a stage whose files are those that it wrote; arguments as there.

    Raises:
        UserError: as :func:`read_manifest`, and where a file is missing, damaged or edited.
    """
    command = command or command_of(folder)
    manifest = read_manifest(folder, command)
    for name, digest in manifest["outputs"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            state = "has changed since it was written" if path.exists() else "is missing"
            raise DamagedStage(
                f"{path} {state}: its SHA-256 must be the one in {folder / 'manifest.json'}; run "
                f"the stage again: {command}"
            )
    return manifest


@contextlib.contextmanager
def record_of(folder: Path) -> Iterator[None]:
    """Read what a stage of a run recorded: what fails in this block is said as damage to it.

    Digests tell most of that before. A record whose digest was repaired, or which another program
    wrote, may be any JSON.

    Raises:
        DamagedStage: for a record that is no JSON, or has other fields or types than the stage
            writes.
    """
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        raise DamagedStage(
            f"{folder} is damaged: its records are not those of this stage "
            f"({type(error).__name__}: {error}); run the stage again: {command_of(folder)}"
        ) from error


def command_of(folder: Path) -> str:
    """Return the command that makes a stage's folder."""
    run, name = folder.parent, folder.name
    if run.name in ("build", "measure"):
        verb = "measure" if name == "reference" else f"{run.name} --target {name}"
        return f"lmaunet-deploy {verb} --run {run.parent}"
    given = {"qat": " --ckpt FILE", "control": " --ckpt FILE", "train": " --data DIR"}
    verb = "qat" if name == "control" else name
    return f"lmaunet-deploy {verb}{given.get(name, '')} --run {run}"
