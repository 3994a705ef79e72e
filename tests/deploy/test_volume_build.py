"""A network of volumes, quantized, exported and built, and a file segmented by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import SimpleITK
import torch
from onnx import numpy_helper

from lmaunet.data.dataset import SliceSet
from lmaunet.data.inference import Preparation
from lmaunet.data.windows import cover_volume
from lmaunet.deploy.deployment import FILE, Interface, open_build, write_build
from lmaunet.deploy.inferring import infer
from lmaunet.deploy.segmenter import load
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.errors import Disagreement, UserError
from lmaunet.export.agreement import check_quantized
from lmaunet.export.network import QCDQ, QONNX, export_qcdq, export_qonnx
from lmaunet.net.network import LMaUNet
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork
from lmaunet.spec import NetSpec
from lmaunet.stage import Stage
from lmaunet.train.loop import fit
from lmaunet.train.metrics import predict_logits
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Schedule

FLAT = (1, 2, 2)
SPEC = NetSpec(
    "tiny3d", (4, 4, 4, 8, 8), classes=3, states=2, strides=(FLAT, 2, FLAT, 1),
    kernels=(3, 3, 3, 3), input_size=(4, 16, 24),
)  # fmt: skip
CLASSES = ("background", "one", "other")
WINDOW = {"kind": "window", "low": -125.0, "high": 275.0, "mean": 0.5, "std": 0.25}
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def volumes():
    return np.random.default_rng(0).normal(size=(4, 1, *SPEC.input_size)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized(volumes):
    """The network after a step of training in float and one with quantized weights."""
    torch.manual_seed(0)
    labels = np.digitize(volumes[:, 0], (-0.5, 0.5)).astype(np.uint8)
    z = np.broadcast_to(np.arange(4), (4, 4))
    data = SliceSet(volumes, labels, np.array(["a", "b", "c", "d"]), z)
    given = {"classes": 3, "seed": 0, "folder": None, "processes": ALONE,
             "progress": lambda fraction, line: None}  # fmt: skip
    model = LMaUNet(SPEC)
    fit(model, data, Schedule(3, 2e-2, 2), **given)
    network = QuantNetwork.from_module(model, volumes.shape, keep_norms=True)
    calibrate(network, volumes)
    fit(network, data, Schedule(1, 1e-3, 2), **given)
    network.fold_norms()
    return network.eval()


@pytest.fixture(scope="module")
def exported(quantized, volumes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    image = torch.from_numpy(volumes[:1])
    export_qcdq(quantized, image, folder / QCDQ)
    export_qonnx(quantized, image, folder / QONNX)
    return folder


def request(exported, volumes, folder, target):
    options = get_target(target).options()
    return BuildRequest(folder, exported / QCDQ, exported / QONNX, volumes, options,
                        lambda line: None)  # fmt: skip


@pytest.fixture(scope="module")
def build(exported, volumes, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    ready = Preparation((16, 24), WINDOW, (3.0, 3.0), False, depth=4, slice_mm=5.0)
    data = {"name": "x", "label_source": "y", "synthetic": False}
    interface = Interface(SPEC, "5" * 64, CLASSES, ready, (5.0, 3.0, 3.0), data, {})

    def work(folder: Path) -> None:
        made = get_target("ort").build(request(exported, volumes, folder, "ort"))
        write_build(made, interface, exported / QCDQ)

    made = Stage(place, "build/ort", {"qcdq": exported / QCDQ}, {}).write(work)
    alone = tmp_path_factory.mktemp("alone") / "ort"
    shutil.copytree(made, alone)
    return alone


def swap(model: onnx.ModelProto, order: tuple[int, ...]) -> int:
    """Turn the axes of each kernel of three axes in an exported graph; return how many."""
    count = 0
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 5 and max(tensor.dims[2:]) > 1:
            array = np.ascontiguousarray(numpy_helper.to_array(tensor).transpose(order))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            count += 1
    return count


def test_the_exported_graph_computes_what_torch_does(exported, quantized, volumes, tmp_path):
    found = check_quantized(exported / QCDQ, volumes[:1], quantized, tmp_path)
    assert found and all(agreement.passed for agreement in found)


def test_depth_and_height_swapped_in_the_export_are_noticed(exported, quantized, volumes, tmp_path):
    model = onnx.load(exported / QCDQ)
    assert swap(model, (0, 1, 3, 2, 4)) >= 8
    onnx.save(model, tmp_path / QCDQ)
    with pytest.raises(Disagreement):
        check_quantized(tmp_path / QCDQ, volumes[:1], quantized, tmp_path)


def test_a_cpu_computes_its_convolutions_on_integers(build, quantized, volumes):
    made, deployment = open_build(build)
    kernels = made.detail["convolutions"]
    # the first one, of the image, whose rounding the file does as well, may stay in float
    assert kernels["integer_kernels"] >= kernels["quantized"] - 1
    assert all(agreement.passed for agreement in made.agreements)
    assert deployment.interface.network == SPEC
    content = json.loads((build / FILE).read_text())
    assert content["input"] == {"channels": 1, "size": [4, 16, 24]}
    assert content["volume"] == {"depth": 4, "slice_mm": 5.0}
    got = get_target("ort").run(made, volumes).argmax(1)
    want = predict_logits(quantized, volumes).argmax(1)
    assert (got != want).mean() <= 0.01


def write_volume(path, shape, spacing):
    noise = np.random.default_rng(1).normal(75, 150, shape)
    image = SimpleITK.GetImageFromArray(noise.astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin((3.0, -7.0, 11.0))
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize(("slices", "windows"), [(3, 4), (4, 4), (9, 16)])
def test_a_file_is_segmented_by_windows_over_its_volume(build, tmp_path, slices, windows):
    path = write_volume(tmp_path / "image.nii.gz", (slices, 20, 30), (3.0, 3.0, 5.0))
    content, lines = infer(
        build, [path], tmp_path / "mask.nii.gz", overlap=0.5, batch=4,
        say=lambda share, line: None,
    )  # fmt: skip
    assert content["slices"]["windows"] == windows
    assert content["slices"]["window"] == [4, 16, 24]
    assert f"{slices} slices of 20x30 in {windows} windows of 4x16x24" in "\n".join(lines)
    mask, image = (SimpleITK.ReadImage(str(p)) for p in (tmp_path / "mask.nii.gz", path))
    assert mask.GetOrigin() == image.GetOrigin() and mask.GetSpacing() == image.GetSpacing()
    made, _ = open_build(build)
    expected = cover_volume(
        load(build).read([path]).images(0, slices), SPEC.input_size,
        lambda images: get_target("ort").run(made, images),
    )  # fmt: skip
    assert np.array_equal(SimpleITK.GetArrayFromImage(mask), expected.argmax(1))
    assert len(np.unique(expected.argmax(1))) > 1


def test_slices_that_are_further_apart_than_those_of_training_are_told(build, tmp_path):
    near = write_volume(tmp_path / "near.nii.gz", (5, 16, 24), (3.0, 3.0, 6.0))
    far = write_volume(tmp_path / "far.nii.gz", (5, 16, 24), (3.0, 3.0, 9.0))
    opened = load(build)
    assert not opened.read([near]).doubts
    (doubt,) = opened.read([far]).doubts
    assert "slices are 9 mm apart, those of training were 5 mm" in doubt
    assert repr(opened).endswith("4x16x24 at 3x3 mm, 3 classes>")
    assert (opened.input_size, opened.depth) == ((16, 24), 4)


def test_a_description_that_does_not_fit_the_network_is_refused(build, tmp_path):
    for change in ({"depth": 8, "slice_mm": 5.0}, None, {"depth": 4, "slice_mm": -1.0}, {}, 4):
        content = json.loads((build / FILE).read_text())
        content["volume"] = change
        with pytest.raises(UserError, match="is damaged"):
            Interface.from_json(content, "deployment.json")


def test_mirrored_images_are_refused(build, tmp_path):
    path = write_volume(tmp_path / "image.nii.gz", (5, 16, 24), (3.0, 3.0, 5.0))
    with pytest.raises(UserError, match="was not trained on such"):
        infer(build, [path], tmp_path / "mask.nii.gz", overlap=0.5, batch=4,
              say=lambda share, line: None, tta=True)  # fmt: skip
    assert not (tmp_path / "mask.nii.gz").exists()


def test_an_fpga_refuses_it_in_one_line(exported, volumes, tmp_path):
    made = request(exported, volumes, tmp_path, "fpga")
    with pytest.raises(UserError, match="takes volumes of 4x16x24; a design streams") as refused:
        get_target("fpga").build(made)
    assert "\n" not in str(refused.value)
    (reason,) = get_target("fpga").refuses(QuantNetworkOf.graph)
    assert "3 spatial axes" in reason.why


class QuantNetworkOf:
    """The graph of the float network."""

    graph = QuantNetwork.from_module(LMaUNet(SPEC).eval(), (1, 1, *SPEC.input_size)).source


def test_openvino_computes_what_torch_does(exported, quantized, volumes, tmp_path):
    pytest.importorskip("openvino")
    made = get_target("openvino").build(request(exported, volumes, tmp_path, "openvino"))
    got = get_target("openvino").run(made, volumes).argmax(1)
    assert (got != predict_logits(quantized, volumes).argmax(1)).mean() <= 0.01


@pytest.mark.slow
def test_an_engine_is_built_with_its_convolutions_as_the_policy_asks(
    exported, quantized, volumes, tmp_path
):
    pytest.importorskip("tensorrt_rtx")
    made = get_target("trt").build(request(exported, volumes, tmp_path, "trt"))
    assert made.shipped.is_file() and all(a.passed for a in made.agreements)
    got = get_target("trt").run(made, volumes).argmax(1)
    assert (got != predict_logits(quantized, volumes).argmax(1)).mean() <= 0.01
