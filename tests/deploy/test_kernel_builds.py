"""A build of several kernels: shared bytes, the choice by the image, what is refused."""

from __future__ import annotations

import json
import shutil

import kernel_builds
import numpy as np
import onnx
import pytest
import SimpleITK
from command_line import runner
from qcdq_nets import images

import lmaunet
from lmaunet.deploy import kernel_choice, profile_builds
from lmaunet.deploy.deployment import open_build
from lmaunet.errors import Disagreement, UserError
from lmaunet.export import shared_weights
from lmaunet.export.reference import open_session, read_model, reference_logits, run_images
from lmaunet.stage import read_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return kernel_builds.make(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def write_scan(path, mm, shape=(2, 32, 32)):
    noise = np.random.default_rng(0).normal(75, 150, shape)
    image = SimpleITK.GetImageFromArray(noise.astype(np.int16))
    image.SetSpacing((mm, mm, 3.0))
    SimpleITK.WriteImage(image, str(path))
    return path


def test_every_kernels_file_ships_and_is_described_by_its_digest(folder):
    build, deployment = open_build(folder)
    names = ["model.onnx", "model.k5.onnx", "model.k9.onnx"]
    assert [path.name for path in build.ships] == names
    assert [file["name"] for file in deployment.ships] == names
    assert build.ships_mb() == sum((folder / name).stat().st_size for name in names) / 1e6
    assert deployment.kernels.kernels == (5, 7, 9) and sorted(build.profiles) == [5, 9]
    assert not (folder / "profiles").exists()
    # all but the depthwise weights lie in the reference's file
    shared = build.detail["profiles"]["5"]
    assert shared["shipped_bytes"] < shared["alone_bytes"] - 0.9 * shared["bytes_in_reference"]
    model = onnx.load(folder / "model.k5.onnx", load_external_data=False)
    inside = [t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    large = [t for t in inside if len(t.raw_data) >= shared_weights.FEWEST_BYTES]
    assert [tuple(t.dims) for t in large] == [(8, 1, 7, 7)]


@pytest.mark.parametrize("kernel", [5, 7, 9])
def test_each_kernel_computes_what_its_own_export_does(folder, kernel):
    """By the program, and by ONNX Runtime and onnx alone from the shipped file."""
    opened = lmaunet.load(folder).at_kernel(kernel)
    got = opened.backend.run(opened.build, images(seed=kernel))
    wanted = reference_logits(kernel_builds.network(kernel), images(seed=kernel))
    assert (got.argmax(1) == wanted.argmax(1)).mean() > 0.99
    others = {k: reference_logits(kernel_builds.network(k), images(seed=kernel)) for k in (5, 7, 9)}
    distance = {k: np.abs(got - logits).mean() for k, logits in others.items()}
    assert min(distance, key=distance.get) == kernel
    path = opened.build.shipped
    alone = open_session(path, optimize=True)
    whole = open_session(read_model(path), optimize=True)
    assert np.array_equal(run_images(alone, images()), run_images(whole, images()))


def test_weights_of_another_kernel_under_the_same_name_stop_the_build(
    mutant_of, monkeypatch, tmp_path
):
    """A file that takes the reference's weights and scales by name and not by their bytes."""
    right, wrong = "return tensor.raw_data", "return tensor.name.encode()"
    mutant = mutant_of(shared_weights, right, wrong)
    monkeypatch.setattr(shared_weights, "share_weights", mutant.share_weights)
    with pytest.raises(Disagreement, match="ort kernel 5, shared weights, logits"):
        kernel_builds.make(tmp_path / "run")
    assert not (tmp_path / "run" / "build" / "ort").exists()
    assert list((tmp_path / "run" / "build" / "disagreement").iterdir())


def test_a_kernel_built_from_the_references_export_is_noticed(mutant_of, monkeypatch, tmp_path):
    mutant = mutant_of(profile_builds, "qcdq=folder / QCDQ", "qcdq=request.qcdq")
    monkeypatch.setattr(profile_builds, "build_profiles", mutant.build_profiles)
    made = kernel_builds.make(tmp_path / "run", kernels=(5, 7))
    with pytest.raises(AssertionError):
        test_each_kernel_computes_what_its_own_export_does(made, 5)


@pytest.mark.parametrize(("mm", "kernel"), [(4.0, 5), (3.6, 5), (3.2, 7), (2.7, 7), (2.5, 9)])
def test_infer_picks_by_the_images_resolution_and_says_why(run, folder, tmp_path, mm, kernel):
    image = write_scan(tmp_path / "scan.nii.gz", mm)
    status, out, err = run("infer", image, "--build", folder, "-o", "auto.nii.gz", "--json")
    assert status == 0, err
    content = json.loads(out)
    assert content["kernel"]["kernel"] == kernel
    assert f"at {mm:g}x{mm:g} mm" in content["kernel"]["why"]
    assert content["build"]["shipped"] == ("model.onnx" if kernel == 7 else f"model.k{kernel}.onnx")
    status, out, _ = run(
        "infer", image, "--build", folder, "-o", "asked.nii.gz", "--kernel", kernel
    )
    assert status == 0 and f"kernel {kernel}: as asked for" in out
    masks = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f"{n}.nii.gz"))
             for n in ("auto", "asked")]  # fmt: skip
    assert np.array_equal(*masks)


def test_a_choice_that_looks_at_another_axis_is_noticed(mutant_of, monkeypatch, folder, tmp_path):
    mutant = mutant_of(kernel_choice, "geometry.spacing_mm[1:]", "geometry.spacing_mm[:2]")
    volume = np.random.default_rng(0).normal(75, 150, (2, 32, 32))
    opened = lmaunet.load(folder)

    def chosen(module):
        chooser = module.Chooser.of(opened, None)
        from lmaunet.deploy.given import prepare

        prepare(volume, (6.0, 2.0, 2.0), chooser.interface)
        return chooser.choice.kernel

    assert (chosen(kernel_choice), chosen(mutant)) == (9, 7)


def test_a_program_gets_the_mask_that_infer_writes(run, folder, tmp_path):
    image = write_scan(tmp_path / "scan.nii.gz", 2.0)
    opened = lmaunet.load(folder)
    assert opened.kernels == (5, 7, 9)
    auto = SimpleITK.GetArrayFromImage(opened(image))
    assert np.array_equal(auto, SimpleITK.GetArrayFromImage(opened(image, kernel=9)))
    assert np.array_equal(auto, SimpleITK.GetArrayFromImage(opened.at_kernel(9)(image)))
    assert not np.array_equal(auto, SimpleITK.GetArrayFromImage(opened(image, kernel=7)))
    with pytest.raises(UserError, match="no kernel 3; use one of 5, 7, 9"):
        opened(image, kernel=3)


def test_what_cannot_be_is_refused_in_one_line_without_a_file(run, folder, tmp_path):
    image = write_scan(tmp_path / "scan.nii.gz", 2.0)
    given = ("infer", image, "--build", folder, "-o", "mask.nii.gz")
    for kernel, words in (
        ("3", "no kernel 3; use one of 5, 7, 9"),
        ("8", "give auto, or a kernel"),
    ):
        status, _, err = run(*given, "--kernel", kernel)
        assert status == 2 and words in err and err.count("lmaunet-deploy: ") == 1
    assert not (tmp_path / "mask.nii.gz").exists()


def test_a_build_of_one_kernel_takes_no_kernel(run, tmp_path):
    made = kernel_builds.make(tmp_path / "one", kernels=(7,))
    assert lmaunet.load(made).kernels == () and "kernels" not in read_json(made / "deployment.json")
    image = write_scan(tmp_path / "scan.nii.gz", 2.0)
    status, _, err = run("infer", image, "--build", made, "-o", "m.nii.gz", "--kernel", "5")
    assert status == 2 and "of a network whose kernels are fixed; leave the option out" in err
    assert run("infer", image, "--build", made, "-o", "m.nii.gz", "--kernel", "auto")[0] == 0


@pytest.mark.parametrize("damage", ["swapped", "missing", "cut"])
def test_a_kernels_file_that_is_not_the_builds_is_refused(folder, tmp_path, damage):
    copy = shutil.copytree(folder, tmp_path / "copy")
    five, nine = copy / "model.k5.onnx", copy / "model.k9.onnx"
    if damage == "swapped":
        content = five.read_bytes()
        five.write_bytes(nine.read_bytes())
        nine.write_bytes(content)
    elif damage == "missing":
        five.unlink()
    else:
        five.write_bytes(five.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"model\.k5\.onnx"):
        lmaunet.load(copy)


def test_a_file_for_the_design_of_another_kernel(tmp_path):
    from lmaunet.deploy.export_graphs import kernel_folder, place_of

    exported = kernel_builds.export(tmp_path)
    assert kernel_folder(exported, None) == kernel_folder(exported, 7) == exported
    assert kernel_folder(exported, 5) == exported / "profiles" / "5"
    assert [place_of(exported, k) for k in (None, 7, 9)] == ["", "", "profiles/9/"]
    with pytest.raises(UserError, match="has the kernels 5, 7, 9; give one of them"):
        kernel_folder(exported, 3)
    alone = kernel_builds.export(tmp_path / "one", (7,))
    with pytest.raises(UserError, match="whose kernels are fixed; leave the option out"):
        kernel_folder(alone, 7)
