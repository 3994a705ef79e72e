"""The harness sees what it is there to see: programs that are wrong, each in one way."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import robustness
import robustness_cases as cases
import robustness_kills as kills
import robustness_network as network
import robustness_oracle as oracle
import robustness_process as process
import robustness_readers as readers
from test_robustness_oracle import right_labels, write_image

OLD = b"an older mask"


def segment(arguments, change=lambda labels: labels):
    """A right program: read by nibabel, computed as the network does, written whole."""
    image, output = Path(arguments[0]), Path(arguments[1])
    source = nibabel.load(image)
    labels = change(right_labels(np.asanyarray(source.dataobj), source.affine))
    mask = nibabel.Nifti1Image(labels.astype(np.uint8), None, source.header)
    mask.set_data_dtype(np.uint8)
    partial = output.with_name("partial.nii")
    nibabel.save(mask, partial)
    partial.replace(output)
    return 0


def refuse(arguments):
    print("the image is refused: give another", file=sys.stderr)
    return 2


def trace(arguments):
    raise KeyError("position")


def trace_in_passing(arguments):
    print("Traceback (most recent call last):\nValueError: it went on", file=sys.stderr)
    return segment(arguments)


def own_fault(arguments):
    print("lmaunet-deploy: a fault in lmaunet-deploy itself: KeyError: 'x'", file=sys.stderr)
    return 1


def leave_partial(arguments):
    Path(".mask.partial").write_bytes(b"half")
    return refuse(arguments)


def leave_temporary(arguments):
    tempfile.mkstemp()
    return segment(arguments)


def leave_beside(arguments):
    Path("more.txt").write_text("log")
    return segment(arguments)


def destroy(arguments):
    Path(arguments[1]).write_bytes(b"")
    return refuse(arguments)


def destroy_image(arguments):
    segment(arguments)
    Path(arguments[0]).write_bytes(b"")


def write_and_fail(arguments):
    segment(arguments)
    return refuse(arguments)


def hang(arguments):
    time.sleep(30)


def crash(arguments):
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_in_memory(arguments):
    import ctypes

    ctypes.string_at(0)


FAULTY = {
    "traceback": (trace, "traceback: KeyError: 'position'"),
    "traceback, status 0": (trace_in_passing, "traceback: ValueError"),
    "a fault that is caught": (own_fault, "a fault in lmaunet-deploy itself: KeyError: 'x'"),
    "mirrored": (lambda a: segment(a, lambda m: m[::-1]), "computed from other voxels"),
    "other voxels": (
        lambda a: segment(a, lambda m: np.roll(m, 1, 1)),
        "computed from other voxels",
    ),
    "a partial file": (leave_partial, "left after a failure: .mask.partial"),
    "a temporary file": (leave_temporary, "left in the temporary folder: tmp"),
    "a file beside it": (leave_beside, "left beside the result: more.txt"),
    "the old mask destroyed": (destroy, "destroyed or changed by a failure: mask.nii"),
    "the image destroyed": (destroy_image, "changed an input: image.nii.gz"),
    "a mask in spite of a failure": (write_and_fail, "destroyed or changed by a failure: mask.nii"),
    "hangs": (hang, "hangs: not done after"),
    "a signal": (crash, "killed by SIGSEGV"),
    "a fault of memory": (crash_in_memory, "killed by SIG"),
    "another status": (lambda a: 7, "status 7"),
    "nothing written": (lambda a: Path(a[1]).unlink(), "status 0 without mask.nii"),
    "a silent failure": (lambda a: 2, "a failure without a word"),
    "sound input refused": (refuse, "refuses what is sound"),
}


def record_of(tmp_path, program, sound, limit_seconds=20.0):
    work = tmp_path / "work"
    work.mkdir()
    write_image(work / "image.nii.gz")
    (work / "mask.nii").write_bytes(OLD)

    def judge(outcome):
        return oracle.judge_mask(
            work / "image.nii.gz", work / "mask.nii", tmp_path, outcome.said, tmp_path / "judge"
        )

    case = cases.Case(["image.nii.gz", "mask.nii"], "", ("mask.nii",), sound, judge)
    outcome = process.run(case.arguments, tmp_path, program=program, limit_seconds=limit_seconds)
    return cases.judged("nifti", 0, case, outcome)


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_program_is_called_bad(tmp_path, name):
    program, words = FAULTY[name]
    record = record_of(
        tmp_path, program, sound=True, limit_seconds=0.7 if name == "hangs" else 20.0
    )
    assert any(words in reason for reason in record.bad), record


def test_a_right_mask_and_a_right_refusal_are_good(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    record = record_of(tmp_path / "a", segment, sound=True)
    assert record.bad == () and record.verified and record.status == 0
    record = record_of(tmp_path / "b", refuse, sound=False)
    assert record.bad == () and record.status == 2
    assert (tmp_path / "b" / "work" / "mask.nii").read_bytes() == OLD


def stage(arguments):
    """A stage that writes two files whole; it starts anew what was left half done."""
    run = Path("run")
    for partial in run.glob("*.partial"):
        partial.unlink()
    for number in range(6):
        partial = run / f"out{number}.partial"
        partial.write_bytes(bytes(100))
        partial.replace(run / f"out{number}.bin")
    print("done")
    return 0


def differs_by_one(arguments):
    stage(arguments)
    Path("run/out3.bin").write_bytes(bytes(99) + b"\1")


def leaves_partial(arguments):
    for number in range(6):
        Path(f"run/out{number}.bin").write_bytes(bytes(100))


def cannot_go_on(arguments):
    if any(Path("run").iterdir()):
        raise FileExistsError("run is there already")
    return stage(arguments)


@pytest.fixture
def steps(tmp_path):
    """An undisturbed run of the one stage."""
    before, place = tmp_path / "before", tmp_path / "undisturbed"
    before.mkdir()
    (place / "work" / "run").mkdir(parents=True)
    outcome = process.run([], place, program=kills.counting(0, stage))
    assert outcome.status == 0
    operations = int((place / "operations").read_text())
    assert operations == 12
    return [kills.Step("stage", (), 0.05, operations, before, place / "work" / "run")]


def disturbed(steps, tmp_path, after, count=8):
    bad = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        _, _, found, _ = kills.disturb(
            rng, "kill", steps, tmp_path / str(seed), program=stage, after=after
        )
        bad.append(found)
    return bad


def test_a_stage_that_resumes_rightly_is_good(steps, tmp_path):
    assert disturbed(steps, tmp_path, stage) == [[]] * 8


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (differs_by_one, "differs: out3.bin"),
        (leaves_partial, "left over: out"),
        (cannot_go_on, "run again: status 1"),
        (refuse, "run again: status 2"),
    ],
)
def test_a_stage_that_resumes_wrongly_is_bad(steps, tmp_path, after, words):
    found = [reason for each in disturbed(steps, tmp_path, after) for reason in each]
    assert any(words in reason for reason in found), found


def test_only_what_may_differ_is_left_out(tmp_path):
    import json

    contents = {
        "qat/manifest.json": {"created": "x", "key": "k", "outputs": {"a": "1"}},
        "measure/ort/manifest.json": {"created": "x", "key": "k", "outputs": {"measure.json": "1"}},
        "measure/ort/measure.json": {"figures": {"latency_ms": {"value": 1}, "dice": {"value": 2}}},
        "report.json": {"made": {"created": "x"}, "targets": {"ort": {"latency_ms": 3, "dice": 4}}},
    }
    changes = {
        "qat/manifest.json": ("created", "outputs"),
        "measure/ort/manifest.json": ("key", "created"),
    }
    for root in ("a", "b"):
        for name, content in contents.items():
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).write_text(json.dumps(content))

    def put(name, *path_and_value):
        *path, value = path_and_value
        content = json.loads(json.dumps(contents[name]))
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (tmp_path / "b" / name).write_text(json.dumps(content))
        return kills.different(tmp_path / "a", tmp_path / "b")

    assert changes and put("qat/manifest.json", "created", "y") == []
    assert put("qat/manifest.json", "key", "other") == ["differs: qat/manifest.json"]
    put("qat/manifest.json", "created", "y")
    assert put("measure/ort/manifest.json", "outputs", "measure.json", "2") == []
    assert put("measure/ort/measure.json", "figures", "latency_ms", 5) == []
    assert put("report.json", "targets", "ort", "latency_ms", 7) == []
    assert put("report.json", "targets", "ort", "dice", 7) == ["differs: report.json"]


def test_cases_follow_from_seed_kind_and_number(tmp_path):
    made = []
    for name in ("a", "b"):
        work = tmp_path / name / "work"
        work.mkdir(parents=True)
        fixtures = cases.Fixtures(*[tmp_path] * 5)
        case = cases.KINDS["dicom"][1](cases.rng_of(3, "dicom", 11), tmp_path / name, fixtures)
        made.append((case.arguments, case.note, process.snapshot(work)))
    assert made[0] == made[1] and len(made[0][2]) > 1
    assert readers.Refused is not None and network.CLASSES == 12


def test_shares_and_resuming(tmp_path):
    planned = robustness.plan(1000, [])
    counts = {k: sum(kind == k for kind, _ in planned) for k in cases.KINDS}
    total = sum(share for share, _ in cases.KINDS.values())
    for kind, (share, _) in cases.KINDS.items():
        assert abs(counts[kind] - 1000 * share / total) <= 2
    assert robustness.plan(400, []) == planned[:400]  # more cases are those and others
    log = robustness.Log.open(tmp_path / "log.jsonl", 0)
    log.add({"kind": "nifti", "number": 3})
    with log.path.open("a") as stream:
        stream.write('{"kind": "nifti", "num')  # the power went here
    again = robustness.Log.open(tmp_path / "log.jsonl", 0)
    assert again.done() == {("nifti", 3)}
    assert robustness.Log.open(tmp_path / "log.jsonl", 1).done() == set()


@pytest.mark.slow
def test_a_share_of_it(tmp_path):
    """Some cases of each kind that takes little time, as the command runs them."""
    out = tmp_path / "robustness.json"
    command = [
        sys.executable, str(Path(robustness.__file__)), "--cases", "45", "--kills", "0", "--seed",
        "20", "--workers", "2", "--work", str(tmp_path / "work"), "--write", str(out),
    ]  # fmt: skip
    for kind in ("nifti", "nrrd", "metaimage", "dicom", "enhanced", "checkpoint", "build", "set"):
        command += ["--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    content = robustness.json.loads(out.read_text())
    assert content["cases"] == 45 and content["bad"] == 0 and content["seed"] == 20
    assert sum(kind["verified"] for kind in content["kinds"].values()) >= 10


def test_all_that_a_time_can_change_may_differ():
    """What stands beside a float network's time: all of it but its size and what computes it."""
    from lmaunet.deploy.timing import beside_float32

    timing = {
        "min_ms": 1.0, "median_ms": 2.0, "p90_ms": 3.0, "runs": 9, "spread": 3.0, "unsteady": True,
    }  # fmt: skip
    volatile = {name.rpartition(".")[2] for name in kills.TIMES}
    fixed = {"runs", "size_mb", "form", "compression"}
    assert set(beside_float32(timing, timing, 1.0, 4.0, "x")) - volatile == fixed
