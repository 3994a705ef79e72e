"""What ``infer`` says and counts: progress, the volume of each class, lines for a person."""

from __future__ import annotations

from types import SimpleNamespace

import lone_build
import numpy as np
import pytest
import SimpleITK

from lmaunet.deploy import inferring, phase_times, segmenter
from lmaunet.errors import UserError

CONTENT = {
    "build": {"network": "demo", "target": "ort", "arithmetic": "in integers"},
    "slices": {"count": 7, "at_network_spacing": [40, 48], "window": [32, 24],
               "windows_per_slice": 6, "overlap": 0.255},
    "classes": [{"index": 0, "name": "air", "voxels": 1234567, "ml": 1234.5678},
                {"index": 1, "name": "liver", "voxels": 5, "ml": 0.05}],
    "times_ms": {**dict.fromkeys(segmenter.PHASES, 4.9), "first_call": 5.0, "infer": 1234.0,
                 "total": 9876.0},
    "notes": ["noted"], "output": "seg.nii", "kernel": None,
}  # fmt: skip
WINDOWS = "slices of 40x48 in 6 windows of 32x24, 26% overlap"


def test_the_lines_say_volumes_windows_and_times():
    """A phase of less than 5 ms is left out."""
    lines = inferring._lines(CONTENT, False)
    assert [line.split() for line in lines[2:4]] == [
        ["0", "air", "1,234,567", "1,234.6"], ["1", "liver", "5", "0.1"],
    ]  # fmt: skip
    assert lines[0].split() == ["label", "class", "voxels", "ml"]
    assert lines[4:] == [
        "", "demo on ort: in integers", WINDOWS, "noted",
        "7 slices in 9.88 s (first call 0.01, infer 1.23)", "wrote seg.nii",
    ]  # fmt: skip


@pytest.mark.parametrize(("synthetic", "overlap"), [(True, None), (False, 0.0), (True, 0.255)])
def test_windows_and_a_synthetic_training_are_said_where_there_are_any(synthetic, overlap):
    content = CONTENT | {"slices": {**CONTENT["slices"], "overlap": overlap}}
    lines = inferring._lines(content, synthetic)
    assert any("windows" in line for line in lines) == (overlap is not None)
    assert any("labels mean nothing" in line for line in lines) == synthetic


def test_every_class_has_its_voxels_and_millilitres():
    """To a microlitre; a class that was not found has none."""
    labels = np.array([[0, 0, 0], [2, 2, 0]], np.uint8)
    assert inferring._count(labels, ("air", "liver", "aorta", "spleen"), 0.0625) == [
        {"index": 0, "name": "air", "voxels": 4, "ml": 0.25},
        {"index": 1, "name": "liver", "voxels": 0, "ml": 0.0},
        {"index": 2, "name": "aorta", "voxels": 2, "ml": 0.125},
        {"index": 3, "name": "spleen", "voxels": 0, "ml": 0.0},
    ]
    assert inferring._count(labels, ("a", "b", "c"), 0.12345)[2]["ml"] == 0.247


@pytest.mark.parametrize(("classes", "kind"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_a_class_index_is_stored_in_a_byte_where_it_fits(classes, kind):
    """And the share that is done is said before each slice, the first of them alone."""
    volume = SimpleNamespace(
        geometry=SimpleNamespace(shape=(6, 4, 5)), within=lambda output: output,
        cover=lambda images, run, overlap, batch: run(images),
        images=lambda start, stop: np.zeros((stop - start, 1, 4, 5), np.float32),
        labels=lambda logits: logits.argmax(1),
    )  # fmt: skip

    class Volume(SimpleNamespace):
        depth = None

        def __len__(self):
            return 6

    def compute(build, images):
        logits = np.zeros((len(images), classes, *images.shape[2:]), np.float32)
        logits[:, -1] = 1
        return logits

    target = lone_build.target(run=compute)
    network = segmenter.Network(target, None, classes, segmenter.Timer())
    said = []
    labels = segmenter.segment(
        Volume(**vars(volume)), network, overlap=0.5, batch=2,
        say=lambda share, line: said.append((share, line)),
    )  # fmt: skip
    assert labels.dtype == kind and (labels == classes - 1).all()
    assert said == [
        (start / 6, f"slice {start + 1} of 6") for start in (0, 1, 3, 5)
    ]  # fmt: skip
    assert (network.images, network.first_images) == (6, 1)


def test_the_first_call_and_the_others_are_timed_apart():
    timer = segmenter.Timer()
    network = segmenter.Network(lone_build.target(), None, 2, timer)
    images = np.zeros((3, 1, 32, 32), np.float32)
    network(images[:2])
    assert timer.times_ms["first_call"] > 0 and timer.times_ms["infer"] == 0
    first = timer.times_ms["first_call"]
    network(images)
    assert timer.times_ms["first_call"] == first and timer.times_ms["infer"] > 0
    assert (network.images, network.first_images) == (5, 2)


def test_a_time_of_which_nothing_is_inside_counts_whole(monkeypatch):
    """A phase inside another is taken from that one alone, and from no later one."""
    now = iter([0.0, 1.0, 3.0, 4.0, 8.0, 10.0, 20.0, 25.0])
    monkeypatch.setattr(phase_times.time, "perf_counter", lambda: next(now))
    timer = segmenter.Timer()
    with timer.phase("blend"):
        with timer.phase("infer"):
            pass
        with timer.phase("prepare"):
            pass
    with timer.phase("write"):
        pass
    found = {name: ms for name, ms in timer.times_ms.items() if ms}
    assert found == {"infer": 2000.0, "prepare": 4000.0, "blend": 4000.0, "write": 5000.0}


def test_progress_goes_from_the_build_to_the_file(tmp_path, monkeypatch):
    """The slices take nine tenths of it."""
    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target(run_note="slow"))
    folder = lone_build.make(tmp_path / "run")
    image = SimpleITK.GetImageFromArray(np.zeros((2, 20, 24), np.float32))
    image.SetSpacing((3.0, 3.0, 4.0))
    SimpleITK.WriteImage(image, str(tmp_path / "a.nii"))
    said = []
    content, _ = inferring.infer(
        folder, [tmp_path / "a.nii"], tmp_path / "s.nii", overlap=0.5, batch=1,
        say=lambda share, line: said.append((round(share, 6), line)),
    )  # fmt: skip
    assert said == [
        (0.0, "opening the build"), (0.0, "reading a.nii"), (0.05, "slice 1 of 2"),
        (0.5, "slice 2 of 2"), (0.95, "writing s.nii"),
    ]  # fmt: skip
    assert content["slices"]["overlap"] is None and content["slices"]["windows_per_slice"] == 1
    assert content["notes"][-1] == "slow"
    times = content["times_ms"]
    assert all(times[name] == round(times[name], 3) for name in times)
    assert 0 < sum(times[name] for name in segmenter.PHASES) <= times["total"] + 0.01


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_is_one_slice_or_more(tmp_path, batch):
    with pytest.raises(UserError, match=f"^batch {batch}; expected 1 slice or more; 4 is usual$"):
        inferring.infer(
            tmp_path, [tmp_path], tmp_path / "s.nii", overlap=0.5, batch=batch, say=print
        )
