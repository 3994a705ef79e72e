"""``infer ARCHIVE -o MASKS``: each study has the mask that it has alone, whatever stops."""

from __future__ import annotations

import csv
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import small_build
from command_line import runner

from lmaunet.deploy import archive as archives
from lmaunet.deploy import inferring, studies, study_workers
from lmaunet.deploy.infer_command import InferOptions, is_archive
from lmaunet.deploy.studies import Aside, find_studies

sys.path.append(str(Path(__file__).parents[1] / "data"))
import dicom_maker as maker

COUNT = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A build, an archive, and in ``alone`` the mask of each study by itself."""
    place = tmp_path_factory.mktemp("archive")
    (place / "work").mkdir()
    small_build.make(place / "work", place / "ort")
    for index in range(COUNT):
        folder = place / "archive" / f"patient{index % 2}" / f"day{index}"
        folder.mkdir(parents=True)
        small_build.write_scan(folder / "ct.nii.gz", (2 + index, 32, 40))
        alone = place / "alone" / folder.relative_to(place / "archive") / "ct.nii.gz"
        alone.parent.mkdir(parents=True)
        inferring.infer(place / "ort", [folder / "ct.nii.gz"], alone, overlap=0.5, batch=4,
              say=lambda share, line: None)  # fmt: skip
    return place


@pytest.fixture
def run(monkeypatch, capsys, place, tmp_path):
    """Runs commands where ``masks`` is a new folder and ``archive`` a copy that may be changed."""
    shutil.copytree(place / "archive", tmp_path / "archive")
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def masks_of(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.nii.gz"))
    }


def infer(run, place, *more):
    return run("infer", "--build", place / "ort", "archive", "-o", "masks", *more)


def test_masks_are_those_of_the_studies_alone_and_a_bad_study_stops_no_other(run, place, tmp_path):
    (tmp_path / "archive" / "patient0" / "bad.nii.gz").write_text("no image")
    (tmp_path / "archive" / "patient0" / "day0" / "ct_seg.nii.gz").write_text("a label")
    (tmp_path / "archive" / "photo.png").write_text("a picture")
    status, out, err = infer(run, place, "--workers", 2, "--json")
    assert status == 1, err
    found = json.loads(out)
    assert (found["studies"], found["done"], found["failed"]) == (COUNT + 1, COUNT, 1)
    assert found["passed_over"] == 2 and "patient0/bad: " in found["first_failed"][0]
    assert masks_of(tmp_path / "masks") == masks_of(place / "alone")
    with (tmp_path / "masks" / "studies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows].count("done") == COUNT and len(rows) == COUNT + 1
    assert all(float(row["one ml"]) > 0 for row in rows if row["status"] == "done")

    # the same command does what is left: a bad one, a changed one, two whose masks are not there
    small_build.write_scan(tmp_path / "archive" / "patient0" / "bad.nii.gz")
    small_build.write_scan(tmp_path / "archive" / "patient1" / "day1" / "ct.nii.gz", (9, 32, 40))
    (tmp_path / "masks" / "patient0" / "day2" / "ct.nii.gz").unlink()
    (tmp_path / "masks" / "patient0" / "day4" / "ct.nii.gz").write_bytes(b"cut")
    status, out, _ = infer(run, place, "--workers", 1)
    assert status == 0
    assert out.startswith(f"{COUNT + 1} studies: 4 done, {COUNT - 3} there already, 0 failed")
    after = masks_of(tmp_path / "masks")
    for name in ("patient0/day2/ct.nii.gz", "patient0/day4/ct.nii.gz"):
        assert after[name] == masks_of(place / "alone")[name]
    assert len(after) == COUNT + 1

    # what is damaged now has no mask any more, neither that of the image that it was
    (tmp_path / "archive" / "patient1" / "day1" / "ct.nii.gz").write_text("no image")
    status, out, _ = infer(run, place, "--workers", 1)
    assert status == 1 and "0 done, 5 there already, 1 failed" in out
    assert sorted(set(after) - set(masks_of(tmp_path / "masks"))) == ["patient1/day1/ct.nii.gz"]


def children_of(process: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
            line = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(words[1]) == process and b"spawn_main" in line:
            found.append(int(path.parent.name))
    return found


def test_a_process_that_is_killed_takes_no_study_with_it(place, tmp_path):
    folder = tmp_path / "archive"
    shutil.copytree(place / "archive", folder)
    small_build.write_scan(folder / "large.nii.gz", (400, 32, 40))  # under way for long enough
    command = [sys.executable, "-m", "lmaunet.deploy.cli", "infer", "--build", place / "ort",
               folder, "-o", tmp_path / "masks", "--workers", "2", "--json"]  # fmt: skip
    working = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while not (children := children_of(working.pid)):
        assert working.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(children[0], signal.SIGKILL)
    out, _ = working.communicate(timeout=120)
    found = json.loads(out)
    assert working.returncode == 0 and found["done"] == COUNT + 1 and not found["failed"]
    masks = masks_of(tmp_path / "masks")
    masks.pop("large.nii.gz")
    assert masks == masks_of(place / "alone")


def test_a_dask_worker_that_is_killed_takes_no_study_with_it(run, place, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE", "False")
    large = tmp_path / "archive" / "large.nii.gz"
    small_build.write_scan(large, (400, 32, 40))
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        victim = next(iter(cluster.workers.values())).pid
        threading.Timer(1.0, os.kill, (victim, signal.SIGKILL)).start()
        status, out, err = infer(run, place, "--scheduler", cluster.scheduler_address, "--json")
        assert status == 0, err
        found = json.loads(out)
        assert found["done"] == COUNT + 1 and found["scheduler"] == cluster.scheduler_address
    masks = masks_of(tmp_path / "masks")
    masks.pop("large.nii.gz")
    assert masks == masks_of(place / "alone")
    monkeypatch.setattr(study_workers, "CONNECT_S", 1)
    status, _, err = infer(run, place, "--scheduler", cluster.scheduler_address)
    assert status == 2 and "does not answer" in err and "Traceback" not in err


@pytest.fixture
def alone(place, tmp_path):
    """A study, and what a worker is told of it."""
    shutil.copytree(place / "archive" / "patient0" / "day0", tmp_path / "day0")
    sha256 = json.loads((place / "ort" / "deployment.json").read_text())["sha256"]["shipped"]
    task = study_workers.Task(
        place / "ort", sha256, tmp_path / "masks", ".nii.gz", InferOptions(), "k"
    )
    return studies.Study("ct", (tmp_path / "day0" / "ct.nii.gz",)), task


def test_a_worker_that_sees_another_build_refuses_the_study(alone):
    study, task = alone
    assert study_workers.segment_study(study, task)["status"] == "done"
    assert study.mask(task.masks, ".nii.gz").exists()
    found = study_workers.segment_study(study, dataclasses.replace(task, sha256="0"))
    assert found["status"] == "failed" and "has another build here" in found["error"]
    assert not study.mask(task.masks, ".nii.gz").exists()
    assert json.loads(study.record(task.masks).read_text())["error"] == found["error"]


def test_a_study_that_changes_meanwhile_fails(alone, monkeypatch):
    study, task = alone
    infer = inferring.infer

    def and_write(*given, **options):
        found = infer(*given, **options)
        small_build.write_scan(study.images[0], (7, 32, 40))
        return found

    monkeypatch.setattr(inferring, "infer", and_write)
    found = study_workers.segment_study(study, task)
    assert found["status"] == "failed" and "changed while it was segmented" in found["error"]
    assert not study.mask(task.masks, ".nii.gz").exists()


def test_a_fault_of_the_program_is_that_of_one_study(alone, monkeypatch):
    study, task = alone

    def fault(*given, **options):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(inferring, "infer", fault)
    found = study_workers.segment_study(study, task)
    assert found["status"] == "failed"
    assert found["error"] == "unexpected ZeroDivisionError: by nought"


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [(4, 2, [[0, 2], [1, 3]]), (3, 2, [[0, 2], [1]]), (2, 4, [[0], [1], [0], [1]])],
)
def test_processes_share_the_cores(monkeypatch, cores, workers, expected):
    given = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, mine: given.append(mine))
    started = multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(workers):
        study_workers._pin(started, workers)
    assert given == expected


class Ending(study_workers.LocalWorkers):
    """Workers of which one study ends the process; done in this process."""

    def __init__(self, culprit):
        super().__init__(2)
        self.culprit, self.given = culprit, []

    def submit(self, study, task):
        self.given.append(study.name)
        future = study_workers.Future()
        if study.name == self.culprit or (self.culprit in self.given and len(self.given) < 4):
            future.set_exception(study_workers.BrokenProcessPool("ended"))
        else:
            future.set_result({"status": "done"})
        return future


def test_the_study_that_ends_its_process_is_given_up_and_the_others_are_not(tmp_path):
    names, ended = ["a", "b", "c", "d", "e"], {}
    given = (studies.Study(name, ()) for name in names)
    task = study_workers.Task(Path("b"), "", tmp_path, ".nii.gz", InferOptions(), "k")
    workers = Ending("b")
    study_workers.segment_all(
        given, task, workers, lambda s, status: ended.update({s.name: status})
    )
    assert ended == {name: "failed" if name == "b" else "done" for name in names}
    assert workers.given.count("b") == 2  # beside others, and alone
    assert "too little memory" in json.loads((tmp_path / "b.json").read_text())["error"]


def test_work_that_a_cluster_takes_back_ends_the_command(tmp_path):
    class Gone(study_workers.LocalWorkers):
        def submit(self, study, task):
            future = study_workers.Future()
            future.cancel()
            return future

    task = study_workers.Task(Path("b"), "", tmp_path, ".nii.gz", InferOptions(), "k")
    with pytest.raises(archives.UserError, match="its scheduler may be gone; what is done is kept"):
        study_workers.segment_all(
            iter([studies.Study("a", ())]), task, Gone(1), lambda study, status: None
        )
    assert not (tmp_path / "a.json").exists()  # it is neither done nor failed


def test_masks_of_two_builds_or_options_never_mix(run, place, tmp_path):
    assert infer(run, place, "--workers", 1)[0] == 0
    before = masks_of(tmp_path / "masks")
    status, _, err = infer(run, place, "--overlap", 0.25)
    assert status == 2 and "made with another options; name a new folder" in err
    header = tmp_path / "masks" / ".archive.json"
    known = json.loads(header.read_text())
    header.write_text(json.dumps(known | {"key": "0", "build": {"shipped": "1"}}))
    status, _, err = infer(run, place)
    assert status == 2 and "made with another build" in err
    header.write_text("{")
    assert "is damaged" in infer(run, place)[2]
    header.unlink()
    status, _, err = infer(run, place)
    assert status == 2 and "holds other files" in err
    assert masks_of(tmp_path / "masks") == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("archive", "-o", "archive/masks"), "lie in each other"),
        (("archive", "-o", "."), "lie in each other"),
        (("empty", "-o", "masks"), "has no image in it"),
        (("nowhere", "-o", "masks"), "nowhere does not exist, and -o masks names a folder"),
        (("archive/patient0/day0/ct.nii.gz", "-o", "masks"), "or name the mask masks.nii.gz"),
        (("archive", "archive", "-o", "empty"), "2 images were given: name one mask"),
        (("archive", "-o", "masks", "--workers", 0), "--workers 0; give 1 to"),
        (("archive", "-o", "masks", "--format", ".png"), "--format .png; give one of .nii.gz"),
        (("archive", "-o", "masks", "--confidence", "m.nii.gz"), "--confidence is for one image"),
        (("archive", "-o", "masks", "--workers", 1, "--scheduler", "tcp://a:1"), "give one"),
        (("archive", "-o", "masks", "--tta"), "not trained on such"),
        (("archive", "-o", "masks", "--kernel", 5), "whose kernels are fixed"),
        (("archive", "-o", "masks", "--missing", 1), "missing"),
        (("archive", "-o", "masks", "--crf", "--fuse", "resample"), "--crf with --fuse resample"),
        (("archive", "-o", "masks", "--fuse", "bend"), "bend"),
        (("archive/patient0/day0/ct.nii.gz", "-o", "m.nii", "--workers", 2), "--workers is for a"),
        (("archive/patient0/day0/ct.nii.gz", "-o", "m.nii", "--format", ".nii"), "--format is for"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_leaves_nothing(run, place, tmp_path, words, expected):
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run("infer", "--build", place / "ort", *words)
    assert status == 2 and expected in err and not out, err
    assert "Traceback" not in err and sorted(tmp_path.rglob("*")) == before


def test_channels_are_told_by_number_and_nothing_shares_a_mask(tmp_path):
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz",
                 "c_0000.nrrd", "c_0001.nii.gz", "d_0000.nii.gz", "d_0002.nii.gz"):  # fmt: skip
        (tmp_path / name).touch()
    found = {study.name: study for study in find_studies(tmp_path, 2)}
    assert [path.name for path in found["a"].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert not found["a"].fault and "expected 2 image(s)" in found["b"].fault
    assert "would have one mask" in found["c"].fault and "expected 2" in found["d"].fault
    first = {study.name: study for study in find_studies(tmp_path, 2, missing=[2])}
    assert not first["b"].fault and "expected 1 image(s), NAME_0000" in first["a"].fault
    alone = {study.name: study for study in find_studies(tmp_path, 1)}
    assert sorted(alone) == ["a", "a_0001", "b", "c", "c_0001", "d", "d_0002"]
    assert alone["c"].fault and not alone["a"].fault


def test_a_folder_of_dicom_files_is_a_study_and_links_upwards_end(tmp_path):
    maker.series(tmp_path / "p" / "ct")
    aside = Aside()
    (study,) = find_studies(tmp_path, 1, aside=aside)
    assert study.name == "p/ct" and study.images == (tmp_path / "p" / "ct",)
    assert len(study.state()) == len(list((tmp_path / "p" / "ct").iterdir()))
    (tmp_path / "p" / "up").symlink_to(tmp_path)
    with pytest.raises(archives.UserError, match="link upwards"):
        list(find_studies(tmp_path, 1))


def test_a_folder_that_cannot_be_read_stops_no_other_study(tmp_path, monkeypatch):
    for name in ("a", "closed", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ct.nii").touch()
    look = studies.visible

    def visible(folder):
        if folder.name == "closed":
            raise archives.UserError("closed cannot be read (Permission denied)")
        return look(folder)

    monkeypatch.setattr(studies, "visible", visible)
    found = [(study.name, study.fault) for study in find_studies(tmp_path, 1)]
    assert found == [
        ("a/ct", ""), ("closed", "closed cannot be read (Permission denied)"), ("z/ct", ""),
    ]  # fmt: skip
    with pytest.raises(archives.UserError, match="cannot be read"):
        list(find_studies(tmp_path / "closed", 1))


@pytest.mark.parametrize(
    ("cores", "gigabytes", "expected"), [(8, 7, 3), (2, 64, 2), (8, 1, 1), (8, None, 1)]
)
def test_there_are_as_many_workers_as_cores_and_memory_hold(
    monkeypatch, cores, gigabytes, expected
):
    free = None if gigabytes is None else gigabytes * 10**9
    monkeypatch.setattr(study_workers, "available_bytes", lambda: free)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert study_workers.default_workers() == expected


@pytest.mark.parametrize(
    ("output", "images", "expected"),
    [("masks", 1, True), ("m.nii.gz", 1, False), ("m.dcm", 1, False), ("m.v2", 1, False),
     ("masks", 2, False)],
)  # fmt: skip
def test_an_output_without_a_suffix_is_a_folder_of_masks(tmp_path, output, images, expected):
    assert is_archive([tmp_path] * images, tmp_path / output) == expected
    (tmp_path / "there.v2").mkdir()
    assert is_archive([tmp_path], tmp_path / "there.v2")
