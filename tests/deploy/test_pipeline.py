"""The whole path on a synthetic abdomen, as a user types it."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import SimpleITK
from fresh_process import run as run_alone

import lmaunet
from lmaunet.stage import read_json, read_manifest


def test_the_four_commands_of_daily_use(trained, run, place):
    """As typed after a first run: the newest run is found, and each step goes on from the last."""
    for target in ("ort", "trt", "fpga"):
        status, out, err = run("build", "--target", target)
        assert status == 0, err
        assert "DISAGREES" not in out and "agrees" in out and "ships" in out
    status, out, err = run("report", "--json")
    report = json.loads(out)
    # an untrained network may well lose more than its limits; everything else must be good
    failed = [g["name"] for g in report["gates"] if g["state"] == "failed"]
    assert set(failed) <= {"dice_drop_points", "class_drop_points"} and status == (
        1 if failed else 0
    )
    assert set(report["targets"]) == {"ort", "trt", "fpga"}
    assert report["data"]["synthetic"] and "synthetic" in report["data"]["label_source"]
    for name, target in report["targets"].items():
        assert target["size_mb"]["provenance"] == "measured"
        for figure in ("dice", "dice_drop_points", "class_drop_points", "hd95_mm"):
            # without a GPU and a board, their graph and their integers are computed elsewhere
            assert target[figure]["provenance"] == ("measured" if name == "ort" else "emulated")
        lost = {organ: report["reference"]["dice"]["per_class"][organ] - dice
                for organ, dice in target["per_class"].items()}  # fmt: skip
        assert target["worst_class"]["class"] == max(lost, key=lost.get)
        assert target["class_drop_points"]["value"] == pytest.approx(100 * max(lost.values()))
        shipped = sum(f["bytes"] for f in target["files"] if f["ships"])
        assert target["size_mb"]["value"] == shipped / 1e6
    assert {g["target"] for g in report["gates"] if g["name"] == "class_drop_points"} == {
        "ort", "trt", "fpga",
    }  # fmt: skip
    beside = report["targets"]["ort"]["detail"]["float32"]
    assert beside["speed_up"] > 0 and beside["compression"] > 1
    assert report["targets"]["ort"]["latency_ms"]["provenance"] == "measured"
    assert report["targets"]["fpga"]["latency_ms"]["provenance"] == "estimated"
    shipped = {
        f["name"]: f["bytes"] for t in report["targets"].values() for f in t["files"] if f["ships"]
    }
    assert set(shipped) == {
        "model.onnx", "lmaunet_operators.so", "engine.plan.xz", "weights.bin", "weights.json",
        "host.json",
    }  # fmt: skip
    folder = trained.parent.parent
    assert (folder / "report.html").read_text(encoding="utf-8").count("SYNTHETIC") >= 1
    deployment = read_json(folder / "build" / "ort" / "deployment.json")
    listed = [f for f in report["targets"]["ort"]["files"] if f["ships"]]
    assert {f["name"]: (f["bytes"], f["sha256"]) for f in deployment["ships"]} == {
        f["name"]: (f["bytes"], f["sha256"]) for f in listed
    }
    # all was measured for the report: a table of every target, FP32 first
    status, out, _ = run("measure")
    rows = [line.split() for line in out.splitlines()]
    assert status == 0 and [r[0] for r in rows if r][-4:] == ["FP32", "fpga", "ort", "trt"]
    for row in rows[-3:]:
        assert row[1] == f"{100 * report['targets'][row[0]]['dice']['value']:.2f}"
    status, out, _ = run("report")
    last = out.rstrip().splitlines()[-6:]
    assert last[0].startswith("SHIP fpga? ") and any(line.startswith("SHIP ort? ") for line in last)
    run_again(run, folder, report)
    gates_of_the_command_line(run, folder)


def gates_of_the_command_line(run, folder):
    """A floor and a limit of one target decide, and one on a target without a build is refused."""
    status, out, _ = run("report", "--gate", "ort.dice=1", "--gate", "latency_ms=1e9", "--json")
    report = json.loads(out)
    assert status == 1
    (floor,) = (g for g in report["gates"] if g["name"] == "dice")
    assert (floor["target"], floor["state"], floor["direction"]) == ("ort", "failed", "at least")
    assert {g["target"]: g["state"] for g in report["gates"] if g["name"] == "latency_ms"} == {
        "ort": "passed", "trt": "open", "fpga": "passed",
    }  # fmt: skip
    verdict = {entry["target"]: entry for entry in report["verdict"]}
    assert verdict["ort"]["ship"] == "no"
    assert any(reason.startswith("dice is ") for reason in verdict["ort"]["reasons"])
    status, _, err = run("report", "--gate", "openvino.latency_ms=5")
    assert status == 2 and f"{folder.name} has no openvino build" in err
    assert run("report", "--gate", "trt.latency_ms=5", "--strict", "--json")[0] == 1


def run_again(run, folder, report):
    """Nothing is done twice, and the report compares with itself without a regression."""
    before = (folder / "build" / "ort" / "manifest.json").stat().st_mtime_ns
    status, out, _ = run("build", "--target", "ort")
    assert status == 0 and "was there already" in out
    assert (folder / "build" / "ort" / "manifest.json").stat().st_mtime_ns == before
    baseline = folder / "old.json"
    baseline.write_text(json.dumps(report))
    _, out, err = run("report", "--baseline", baseline, "--json")
    assert json.loads(out)["regressions"] == [], err
    worse = json.loads(json.dumps(report))
    worse["targets"]["ort"]["size_mb"]["value"] /= 2
    for gate in worse["gates"]:
        if gate["target"] == "ort" and gate["name"] == "size_mb":
            gate["value"] /= 2
    baseline.write_text(json.dumps(worse))
    status, out, _ = run("report", "--baseline", baseline, "--json")
    assert status == 1
    assert [r["figure"] for r in json.loads(out)["regressions"]] == ["size_mb"]


@pytest.mark.parametrize(
    "target", ["ort", pytest.param("openvino", marks=pytest.mark.slow), "trt", "fpga"]
)
def test_infer_gives_the_classes_that_measure_scored(trained, run, tmp_path, target):
    """From a copy of the build alone, on the held-out slices as an image file of their own."""
    from lmaunet.data.inference import prepare_volume
    from lmaunet.data.phantom import phantom_source
    from lmaunet.deploy.deployment import open_build
    from lmaunet.deploy.measuring import load_run_data
    from lmaunet.deploy.targets import get_target

    folder = trained.parent.parent
    for command in ("build", "measure"):
        status, _, err = run(command, "--target", target)
        assert status == 0, err
    shutil.copytree(folder / "build" / target, tmp_path / "alone")
    _, _, data = load_run_data(folder)
    (volume,) = phantom_source(0).volumes
    image = SimpleITK.GetImageFromArray(volume.channels[0]()[data.val.z])
    image.SetSpacing(volume.spacing_mm[::-1])
    path = tmp_path / "image.nii.gz"
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, "RAS"), str(path))
    status, out, err = run("infer", "--build", tmp_path / "alone", path, "-o",
                           tmp_path / "seg.nrrd", "--json")  # fmt: skip
    assert status == 0, err
    content = json.loads(out)
    assert content["slices"]["at_network_spacing"] == [53, 64]
    assert "shrunk to 53x64" in " ".join(content["notes"])
    build, deployment = open_build(tmp_path / "alone")
    assert content["build"]["arithmetic"] == get_target(target).arithmetic(build)
    assert deployment.interface.classes == data.classes and deployment.interface.data["synthetic"]
    ready = prepare_volume([path], deployment.interface.preparation)
    assert np.allclose(ready.images(0, len(ready)), data.val.images, rtol=0, atol=1e-5)
    logits = get_target(target).run(build, data.val.images)
    with np.load(folder / "measure" / target / "predictions.npz") as scored:
        assert np.array_equal(logits.argmax(1), scored["classes"])
    stored = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(tmp_path / "seg.nrrd")), "LPS")
    got = SimpleITK.GetArrayFromImage(stored)
    assert (got != ready.labels(logits)).mean() < 1e-4 and len(np.unique(got)) > 2
    # what a program gets of the same build is the same mask
    mask = SimpleITK.DICOMOrient(lmaunet.load(tmp_path / "alone")(path), "LPS")
    assert np.array_equal(SimpleITK.GetArrayFromImage(mask), got)


@pytest.mark.parametrize("target", ["ort", "trt", "fpga"])
def test_a_users_own_modules_hide_none_of_ours(trained, run, tmp_path, target):
    """The program is one package, and runs here where the user's own code is found first."""
    folder = trained.parent.parent
    assert run("build", "--target", target)[0] == 0
    for name in ("export", "quant", "fpga", "trt"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the user's own')\n")
    image = SimpleITK.GetImageFromArray(np.zeros((3, 53, 64), np.float32))
    image.SetSpacing((5.0, 5.0, 5.0))
    SimpleITK.WriteImage(image, str(tmp_path / "image.nii.gz"))
    done = run_alone("infer", "--build", folder.resolve() / "build" / target, "image.nii.gz",
                     "-o", "seg.nii.gz", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert SimpleITK.ReadImage(str(tmp_path / "seg.nii.gz")).GetSize() == image.GetSize()


def test_a_score_of_nan_is_none(trained, run, monkeypatch):
    """The class of NaN is the first: a broken target would score as one that finds nothing."""
    from lmaunet.deploy.targets import ort

    def broken(build, images):
        logits = np.zeros((len(images), 9, *images.shape[2:]), np.float32)
        logits[3, 2, 5, 5] = np.nan
        return logits

    run("build", "--target", "ort")
    monkeypatch.setattr("lmaunet.deploy.measuring.get_target", lambda name: dataclasses.replace(
        ort.TARGET, run=broken, arithmetic=lambda build: "broken"
    ))  # fmt: skip
    status, _, err = run("measure", "--target", "ort")
    assert status == 1 and "Traceback" not in err
    assert "ort: the logits of 1 of" in err and "hold NaN or infinity, first of slice 3" in err


@pytest.mark.slow
def test_without_foreground_in_the_held_out_labels_the_gates_are_open(
    trained, run, monkeypatch, tmp_path
):
    """Dice is neither 0 nor 1 there, and what was predicted is said."""
    from lmaunet.deploy.runs import DataSource

    load = DataSource.load

    def empty(self, spec, training):
        data = load(self, spec, training)
        return dataclasses.replace(
            data, val=dataclasses.replace(data.val, labels=np.zeros_like(data.val.labels))
        )

    monkeypatch.setattr(DataSource, "load", empty)
    folder = tmp_path / "run"
    status, out, err = run("qat", "--ckpt", trained, "--phantom", "--run", folder, "--epochs", "1")
    assert status == 0 and "not scored" in out, err
    assert run("build", "--target", "ort", "--run", folder)[0] == 0
    status, out, err = run("measure", "--run", folder)
    assert status == 0 and out.count("not scored") == 2, err
    status, out, err = run("report", "--run", folder, "--json")
    report = json.loads(out)
    assert status == 0, err
    states = {g["name"]: g["state"] for g in report["gates"]}
    assert states == {
        "size_mb": "passed", "dice_drop_points": "open", "class_drop_points": "open"
    }  # fmt: skip
    (verdict,) = report["verdict"]
    assert (
        verdict["ship"] == "unknown" and "no held-out case has foreground" in verdict["reasons"][0]
    )
    assert len(report["data"]["not_scored"]["cases"]) == 1
    assert "per_class" in report["targets"]["ort"] and not report["targets"]["ort"]["per_class"]
    assert run("report", "--run", folder, "--strict")[0] == 1


def test_manifests_say_what_went_in(trained):
    manifest = read_manifest(trained.parent.parent / "qat")
    assert manifest["inputs"]["checkpoint"]["path"].endswith("train/model.pt")
    assert manifest["options"]["data"] == {"path": None, "class_map": None, "seed": 0}
    assert manifest["tools"]["torch"]


def test_export_writes_another_lowering_and_names_unknown_ones(trained, run):
    status, out, err = run("export", "--lowering", "two_level")
    assert status == 0, err
    assert "network.two_level.onnx" in out
    status, _, err = run("export", "--lowering", "fast")
    assert status == 2 and "fast" in err and "two_level" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--target", "fpga", "--board", "ZCU999"), "ZCU104"),
        (("--target", "trt", "--sm", "SM90"), "SM86"),
        (("--target", "trt", "--precision", "int2"), "use one of int8, fp16, fp32, int4-weights"),
        (("--target", "ort", "--precision", "fp16"), "--precision is an option of --target trt"),
        (("--target", "tpu"), "unknown target 'tpu'; use one of: fpga, openvino, ort, trt"),
        (("--target", "fpga", "--clock-mhz", "-5"), "clock"),
        (("--target", "fpga", "--clock-mhz", "0"), "clock_mhz=0.0; give a positive number"),
        (("--target", "fpga", "--board", ""), "ZCU104"),
        (("--target", "ort", "--sm", "SM86"), "--sm is an option of --target trt"),
        (("--target", "ort", "--target-ms", "3"), "--target-ms is an option of --target fpga"),
        (("--target", "trt", "--target-ms", "0"), "--target-ms is an option of --target fpga"),
        (("--target", "ort", "--board", "ZCU104"), "--board is an option of --target fpga"),
        (("--target", "trt", "--clock-mhz", "250"), "--clock-mhz is an option of --target fpga"),
        (("--target", "ort", "--simulate"), "--simulate is an option of --target fpga"),
        (("--target", "trt", "--flow", "none"), "--flow is an option of --target fpga"),
        (("--target", "fpga", "--flow", "quartus"), "use one of: none, levels, timing, vivado"),
        (("--target", "fpga", "--flow", "vivado", "--board", "U250"), "no bitstream for U250"),
    ],
)
def test_a_build_that_cannot_be_is_refused_and_leaves_nothing(trained, run, arguments, text):
    folder = trained.parent.parent / "build"
    before = {p for p in folder.rglob("*") if p.is_file()}
    status, _, err = run("build", *arguments)
    assert status == 2 and text in err and "Traceback" not in err
    assert {p for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("flow", ["timing", "vivado"])
def test_a_flow_without_vivado_ends_with_the_status_of_a_missing_tool(
    trained, run, monkeypatch, flow
):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    status, _, err = run("build", "--target", "fpga", "--flow", flow)
    assert status == 3
    assert "vivado is missing" in err and "install AMD Vivado 2024.2 or newer" in err


def test_a_stale_build_is_not_reported(trained, run):
    """A build of an earlier network is refused with the command that renews it."""
    folder = trained.parent.parent
    run("build", "--target", "ort")
    path = folder / "build" / "ort" / "manifest.json"
    content = read_json(path)
    kept = path.read_text(encoding="utf-8")
    content["inputs"]["qcdq"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    try:
        status, _, err = run("report")
        assert status == 2
        assert "was built from an earlier network" in err
        assert "lmaunet-deploy build --target ort" in err
    finally:
        path.write_text(kept)


@pytest.mark.parametrize("command", [("export",), ("measure", "--target", "ort"), ("report",)])
def test_a_control_of_another_training_is_not_compared_with(trained, run, command):
    """As a command leaves it that was killed between a new QAT and its control."""
    run("build", "--target", "ort")
    path = trained.parent.parent / "control" / "manifest.json"
    content = read_json(path)
    kept = path.read_text(encoding="utf-8")
    content["inputs"]["checkpoint"]["sha256"] = "0" * 64
    content["options"]["schedule"]["epochs"] += 1
    path.write_text(json.dumps(content))
    try:
        status, _, err = run(*command)
        assert status == 2 and "another checkpoint and schedule than" in err
        assert "run the same lmaunet-deploy qat again" in err
    finally:
        path.write_text(kept)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("qat/model.pt", ("export",)),
        ("qat/qat.json", ("report",)),
        ("control/control.pt", ("measure",)),
        ("export/export.json", ("report",)),
        ("build/ort/model.onnx", ("measure", "--target", "ort")),
        ("build/ort/build.json", ("report",)),
    ],
)
def test_an_edited_file_of_a_run_is_not_used(trained, run, name, command):
    folder = trained.parent.parent
    run("build", "--target", "ort")
    path = folder / name
    kept = path.read_bytes()
    middle = len(kept) // 2
    path.write_bytes(kept[:middle] + bytes([kept[middle] ^ 1]) + kept[middle + 1 :])
    try:
        status, _, err = run(*command)
        assert status == 2 and f"{name} has changed since it was written" in err
        assert "run the stage again: lmaunet-deploy" in err
    finally:
        path.write_bytes(kept)


def test_a_damaged_manifest_asks_for_the_data_too(trained, run, tmp_path):
    folder = tmp_path / "run"
    (folder / "qat").mkdir(parents=True)
    (folder / "qat" / "manifest.json").write_text("{")
    status, _, err = run("qat", "--ckpt", trained, "--run", folder, "--epochs", "1")
    assert status == 2 and "with its --data DIR or --phantom" in err


def test_a_network_of_other_classes_is_refused_before_anything_is_trained(
    trained, run, tmp_path, tiny_data
):
    import torch

    content = torch.load(trained, weights_only=True)
    content["notes"]["classes"] = [*content["notes"]["classes"][:-1], "pineal gland"]
    torch.save(content, tmp_path / "model.pt")
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run(
        "qat", "--ckpt", tmp_path / "model.pt", "--phantom", "--run", tmp_path / "run"
    )
    assert status == 2 and "pineal gland" in err and "--class-map" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_of_another_version_is_refused(trained, run):
    path = trained.parent.parent / "qat" / "manifest.json"
    kept = path.read_text(encoding="utf-8")
    path.write_text(json.dumps({**json.loads(kept), "schema": 0}))
    try:
        status, _, err = run("export")
        assert status == 2 and "schema 0, expected 1" in err
    finally:
        path.write_text(kept)
