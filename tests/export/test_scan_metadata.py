import dataclasses
import shutil

import numpy as np
import onnx
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.export.function import NAME
from lmaunet.export.network import export_qcdq, export_qonnx
from lmaunet.export.reference import open_session, reference_logits
from lmaunet.export.scan_metadata import KEY, read_scan_formats, write_scan_formats
from lmaunet.spec import Format, ScanSpec


@pytest.fixture(scope="module")
def exported(tiny_quantized, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    image = torch.from_numpy(tiny_data.train.images[:1])
    export_qcdq(tiny_quantized, image, folder / "qcdq.onnx")
    export_qonnx(tiny_quantized, image, folder / "qonnx.onnx")
    return folder


def specs(count=4, channels=8, states=2):
    return [
        ScanSpec(channels, states, {"state": Format(14, 10 + i)}, 16, tuple(range(channels)))
        for i in range(count)
    ]


def scans(path):
    return [node for node in onnx.load(path).graph.node if node.op_type == NAME]


@pytest.mark.parametrize("name", ["qcdq.onnx", "qonnx.onnx"])
def test_each_scan_carries_its_formats(exported, tmp_path, name):
    path = tmp_path / name
    shutil.copy(exported / name, path)
    assert [read_scan_formats(node) for node in scans(path)] == [None] * 4
    for given in (list(reversed(specs())), specs()):  # the second time replaces the first
        write_scan_formats(path, given)
        assert [read_scan_formats(node) for node in scans(path)] == given
    assert [len(node.metadata_props) for node in scans(path)] == [
        len(node.metadata_props) + 1 for node in scans(exported / name)
    ]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_runtime_computes_the_same(exported, tmp_path, tiny_data):
    path = tmp_path / "qcdq.onnx"
    shutil.copy(exported / "qcdq.onnx", path)
    write_scan_formats(path, specs())
    images = tiny_data.val.images[:1]
    want = reference_logits(onnx.load(exported / "qcdq.onnx"), images)
    np.testing.assert_array_equal(reference_logits(onnx.load(path), images), want)
    open_session(path, optimize=True)
    onnx.checker.check_model(onnx.load(path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (specs(3), "has 4 scans, the formats are of 3"),
        (specs(channels=7), "has 8 channels and 2 states, its formats are of 7 and 2"),
        (specs(states=16), "has 8 channels and 2 states, its formats are of 8 and 16"),
    ],
)
def test_formats_of_another_network_leave_the_file(exported, tmp_path, given, message):
    path = tmp_path / "qonnx.onnx"
    shutil.copy(exported / "qonnx.onnx", path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        write_scan_formats(path, given)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["qonnx.onnx"]


@pytest.mark.parametrize("value", ["", "{", "[]", '{"channels": 8}'])
def test_damaged_formats(exported, value):
    node = scans(exported / "qonnx.onnx")[0]
    node.metadata_props.add(key=KEY, value=value)
    with pytest.raises(UserError, match=r"number formats are damaged .*; export the network again"):
        read_scan_formats(node)


def test_a_format_that_changed_is_read_as_changed(exported, tmp_path):
    """The mutant: formats swapped between two scans are not what was given."""
    path = tmp_path / "qonnx.onnx"
    shutil.copy(exported / "qonnx.onnx", path)
    given = specs()
    write_scan_formats(path, [given[1], given[0], *given[2:]])
    assert [read_scan_formats(node) for node in scans(path)] != given
    assert read_scan_formats(scans(path)[0]) == dataclasses.replace(given[1])
