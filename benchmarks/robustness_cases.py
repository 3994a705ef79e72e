"""The kinds of cases: what is made, which command gets it, and how its answer is judged.

A case follows from the seed, the kind and its number alone.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import robustness_builds as builds
import robustness_checkpoints as checkpoints
import robustness_dicom as dicom
import robustness_enhanced as enhanced
import robustness_headers as headers
import robustness_images as images
import robustness_oracle as oracle
import robustness_process as process
import robustness_sets as sets

TINY = "tiny"
OLD_SHARE = 0.4
"""Of cases in which an older mask lies where the new one goes."""


@dataclass(frozen=True)
class Fixtures:
    """What the cases start from, made once: builds and a finished run."""

    levels: Path
    checkpoint: Path
    data: Path
    other_data: Path
    steps: Path

    @property
    def run(self) -> Path:
        """The finished run that stages are disturbed in."""
        return self.steps / "work" / "run"


@dataclass(frozen=True)
class Case:
    """A command line and what it may leave.

    ``outputs`` are names in the working folder; ``sound`` says that it must succeed; ``judge``
    looks at what was written with status 0; ``failed`` are the statuses after which nothing may
    have changed.
    """

    arguments: Sequence[str]
    note: str
    outputs: tuple[str, ...]
    sound: bool = False
    judge: Callable[[process.Outcome], oracle.Verdict] | None = None
    failed: tuple[int, ...] = (1, 2, 3)
    program: process.Program | None = None


Maker = Callable[[np.random.Generator, Path, Fixtures], Case]


def rng_of(seed: int, kind: str, number: int) -> np.random.Generator:
    """Return the random numbers of a case."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), number])


def infer_case(
    rng: np.random.Generator, place: Path, fixtures: Fixtures, image: Path, note: str, sound: bool,
    suffixes: Sequence[str],
) -> Case:  # fmt: skip
    """Return the case of ``infer`` on an image that lies in ``place/work``."""
    work = place / "work"
    suffix = images.pick(rng, suffixes)
    output = "mask" + suffix
    if rng.random() < OLD_SHARE:
        (work / output).write_bytes(b"an older mask " + rng.bytes(50))
    elif rng.random() < 0.3:
        output = "new/folder/" + output
    arguments = [
        "infer",
        "--build",
        str(fixtures.levels),
        str(image.relative_to(work)),
        "-o",
        output,
    ]
    if arguments[3].startswith("-"):
        arguments[3] = "./" + arguments[3]
    if rng.random() < 0.2:
        arguments.append("--json")

    def judge(outcome: process.Outcome) -> oracle.Verdict:
        return oracle.judge_mask(
            image, work / output, fixtures.levels, outcome.said, place / "judge"
        )

    return Case(arguments, note, (output,), sound, judge)


SUFFIXES = (".nii.gz", ".nii.gz", ".nii.gz", ".nii", ".nrrd", ".mha")
OF_DICOM = (*SUFFIXES, ".dcm")


def image_maker(
    write: Callable[..., tuple[Path, str, bool]], suffixes: Sequence[str] = SUFFIXES
) -> Maker:
    """Return the maker of cases of ``infer`` on images that a function writes."""

    def make(rng: np.random.Generator, place: Path, fixtures: Fixtures) -> Case:
        image, note, sound = write(rng, place / "work")
        return infer_case(rng, place, fixtures, image, note, sound, suffixes)

    return make


def checkpoint_case(rng: np.random.Generator, place: Path, fixtures: Fixtures) -> Case:
    """Return a case of ``qat``: loading alone, or up to data of other classes, or all of it."""
    work = place / "work"
    content, made = checkpoints.make(rng, fixtures.checkpoint)
    name = pick_name(rng)
    (work / name).write_bytes(content)
    note, choice = "; ".join(made.said), rng.random()
    if choice < 0.6:
        return Case(
            [name, TINY if made.spec else "", "taken.pt"], note, ("taken.pt",), made.sound,
            lambda outcome: checkpoints.judge(work / "taken.pt", made, outcome),
            program=checkpoints.load_only,
        )  # fmt: skip
    whole = choice > 0.99
    data = fixtures.data if whole else fixtures.other_data
    arguments = ["qat", "--ckpt", name, "--data", str(data), "--run", "run", "--epochs", "1"]
    arguments += ["--spec", TINY] if made.spec else []
    taken = work / "run" / "control" / "float32.pt"
    return Case(
        arguments,
        note + (", trained" if whole else ""),
        ("run/",),
        made.sound and whole,
        lambda outcome: checkpoints.judge(taken, made, outcome),
    )


def build_case(rng: np.random.Generator, place: Path, fixtures: Fixtures) -> Case:
    """Return a case of ``infer`` with a build that was changed, on a sound image."""
    work, said = place / "work", list[str]()
    folder = builds.copied(fixtures.levels, work / "build")
    fits = builds.change_build(rng, folder, said)
    return _with_build(rng, place, fixtures, said, fits)


def onnx_case(rng: np.random.Generator, place: Path, fixtures: Fixtures) -> Case:
    """Return a case of ``infer`` with a build whose network was changed, its digests with it."""
    work, said = place / "work", list[str]()
    source = fixtures.run / "build" / "ort" if rng.random() < 0.4 else fixtures.levels
    folder = builds.copied(source, work / "build")
    for _ in range(int(rng.integers(1, 3))):
        try:
            builds.change_onnx(rng, folder / "model.onnx", said)
        except Exception as error:  # what an earlier change left is no protobuf any more
            said.append(type(error).__name__)
    builds.repair(folder)
    return _with_build(rng, place, fixtures, said, True)


def _with_build(
    rng: np.random.Generator, place: Path, fixtures: Fixtures, said: list[str], fits: bool
) -> Case:
    image = builds.sound_image(rng, place / "work")
    case = infer_case(rng, place, fixtures, image, "; ".join(said), False, SUFFIXES)
    arguments = [*case.arguments]
    arguments[2] = "build"
    # where the digests fit, the build may be of another network, of which nothing is known
    return Case(arguments, case.note, case.outputs, judge=None if fits else case.judge)


def set_case(rng: np.random.Generator, place: Path, fixtures: Fixtures) -> Case:
    """Return a case of ``data info`` on a small labelled set."""
    folder, said = place / "work" / "set", list[str]()
    made = sets.layout(rng, folder)
    sound = rng.random() < 0.05 and made[0] == "pairs"
    for _ in range(0 if sound else int(rng.integers(1, 3))):
        try:
            sets.change_set(rng, folder, made, said)
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            said.append(f"does not fit: {type(error).__name__}")
    arguments = ["data", "info", "--data", "set", "--json"]
    map_ = images.pick(rng, [None, None, None, *folder.glob("*.json")])
    if map_ is not None:
        arguments += ["--class-map", str(map_.relative_to(place / "work"))]
    return Case(arguments, "; ".join([made[0], *said]), (), sound, _one_side_each)


def _one_side_each(outcome: process.Outcome) -> oracle.Verdict:
    """Judge a split: no patient may train and validate, but where there is one alone."""
    sides = json.loads(outcome.out)["cases"]
    train, val = ({name.partition("_frame")[0] for name in sides[s]} for s in ("train", "val"))
    both = sorted(train & val) if len(train | val) > 1 else []
    return oracle.Verdict((f"on both sides: {both[:3]}",) if both else ())


def spec_case(rng: np.random.Generator, place: Path, fixtures: Fixtures) -> Case:
    """Return a case of ``spec FILE.json`` with a network's fields changed."""
    from lmaunet.spec import SPECS

    said = list[str]()
    content = SPECS[images.pick(rng, (TINY, "demo", "base"))].to_json()
    content = builds.change_json(rng, content, said, int(rng.integers(1, 4)))
    (place / "work" / "spec.json").write_bytes(builds.json_bytes(rng, content, said))
    return Case(["spec", "spec.json"], "; ".join(said), ())


def report_case(rng: np.random.Generator, place: Path, fixtures: Fixtures) -> Case:
    """Return a case of ``report --baseline`` with a report that was changed."""
    work, said = place / "work", list[str]()
    builds.copied(fixtures.run, work / "run")
    content = json.loads((fixtures.run / "report.json").read_bytes())
    content = builds.change_json(rng, content, said, int(rng.integers(1, 3)))
    (work / "old.json").write_bytes(builds.json_bytes(rng, content, said))
    arguments = ["report", "--run", "run", "--baseline", "old.json"]
    # a gate that fails is status 1, with a report
    return Case(arguments, "; ".join(said), ("run/",), failed=(2, 3))


def run_case_of(rng: np.random.Generator, place: Path, fixtures: Fixtures) -> Case:
    """Return a case of a command on a run of which a file was changed."""
    work, said = place / "work", list[str]()
    run = builds.copied(fixtures.run, work / "run")
    builds.change_run(rng, run, said)
    arguments = images.pick(rng, (
        ["export"], ["measure"], ["report"], ["build", "--target", "ort", "--no-operators"],
        ["measure", "--target", "ort"],
    ))  # fmt: skip
    # stages that were finished before one failed stay
    return Case([*arguments, "--run", "run"], "; ".join(said), ("run/",), failed=())


def pick_name(rng: np.random.Generator) -> str:
    """Return a checkpoint's name."""
    return images.pick(rng, ("model.pt", "model.pt", "model.pth", "last.ckpt", "a.bin", "model"))


KINDS: dict[str, tuple[float, Maker]] = {
    "nifti": (3.0, image_maker(images.nifti_case)),
    "nrrd": (0.8, image_maker(headers.nrrd_case)),
    "metaimage": (0.8, image_maker(headers.metaimage_case)),
    "dicom": (1.6, image_maker(dicom.dicom_case, OF_DICOM)),
    "enhanced": (0.8, image_maker(enhanced.enhanced_case, OF_DICOM)),
    "checkpoint": (1.0, checkpoint_case),
    "build": (0.8, build_case),
    "onnx": (0.4, onnx_case),
    "set": (0.7, set_case),
    "spec": (0.2, spec_case),
    "report": (0.05, report_case),
    "run": (0.03, run_case_of),
}
"""The share of each kind among all cases, and what makes one."""
OF_A_RUN = ("onnx", "report", "run")
"""Kinds that start from a finished run."""


@dataclass(frozen=True)
class Record:
    """What came of a case, as it is written down."""

    kind: str
    number: int
    status: int | None
    bad: tuple[str, ...]
    unverified: str
    note: str
    seconds: float
    said: str
    verified: bool


def run_case(
    seed: int, kind: str, number: int, fixtures: Fixtures, place: Path, *,
    program: process.Program = process.command_line, limit_seconds: float = process.LIMIT_SECONDS,
) -> Record:  # fmt: skip
    """Make a case in a folder, run it and judge what came of it."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "work").mkdir(parents=True)
    case = KINDS[kind][1](rng_of(seed, kind, number), place, fixtures)
    outcome = process.run(
        case.arguments,
        place,
        program=case.program or program,
        limit_seconds=limit_seconds,
    )
    return judged(kind, number, case, outcome)


def judged(kind: str, number: int, case: Case, outcome: process.Outcome) -> Record:
    """Return what is bad about the outcome of a case."""
    bad = process.faults(outcome, case.outputs, failed=case.failed)
    verdict = oracle.Verdict()
    verified = False
    if outcome.status == 0 and case.judge is not None and not bad:
        verdict = case.judge(outcome)
        verified = not verdict.unverified
    if case.sound and outcome.status != 0:
        bad.append("refuses what is sound")
    said = " | ".join(line for line in outcome.err.splitlines() if line.strip())
    return Record(
        kind, number, outcome.status, (*bad, *verdict.wrong), verdict.unverified, case.note,
        round(outcome.seconds, 3), said[-400:], verified,
    )  # fmt: skip
