"""A scan gets the number formats that its file carries."""

import dataclasses
import json

import numpy as np
import pytest
from qonnx_nets import Net, mamba

from lmaunet.errors import UserError
from lmaunet.export.scan_metadata import write_scan_formats
from lmaunet.fpga.agreement.reference import Reference
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.lower import lower
from lmaunet.fpga.toolchain.assemble import assemble
from lmaunet.spec import Format, ScanSpec


@pytest.fixture
def network(tmp_path):
    net = Net()
    local = net.quant(net.conv(net.image(), 4, 4), 0.03)
    path = net.save(tmp_path / "net.onnx", net.conv(mamba(net, local, 4, 4, (8, 8)), 4, 2))
    return path, net.images(3)


def scan_nodes(path, calibration):
    return [
        step for step in Executor(assemble(lower(path, calibration)).model).steps
        if step.op_type == "SelectiveScan"
    ]  # fmt: skip


def spec_of(step):
    return ScanSpec.from_json(json.loads(step.attributes["Spec"]))


def test_formats_of_the_file_take_the_place_of_calibration(network):
    path, images = network
    reference = Reference(path)
    calibrated = spec_of(*scan_nodes(path, reference.run(images, reference.scan_inputs())))
    assert any(calibrated.state_shift)
    narrow = calibrated.formats["state"]
    formats = dict(calibrated.formats) | {"state": Format(narrow.bits - 5, narrow.frac - 5)}
    given = dataclasses.replace(calibrated, formats=formats, state_shift=(2, 0, 1, 3))
    write_scan_formats(path, [given])
    (step,) = scan_nodes(path, {})
    assert spec_of(step) == given
    assert step.attributes["StateBits"] == narrow.bits - 5


def test_formats_move_the_hardwares_codes(network):
    """What the graph computes follows the file: a state of few bits gives other logits."""
    path, images = network
    reference = Reference(path)
    calibration = reference.run(images, reference.scan_inputs())
    spec = spec_of(*scan_nodes(path, calibration))
    state = spec.formats["state"]
    results = []
    for lost in (0, 12):
        formats = dict(spec.formats) | {"state": Format(state.bits - lost, state.frac - lost)}
        write_scan_formats(path, [dataclasses.replace(spec, formats=formats)])
        executor = Executor(assemble(lower(path, {})).model)
        codes = np.rint(images.transpose(0, 2, 3, 1) / 0.02).clip(-128, 127).astype(np.int16)
        results.append(executor.run(codes))
    assert not np.array_equal(results[0], results[1])


def test_formats_of_another_scan_are_refused(network):
    path, images = network
    reference = Reference(path)
    spec = spec_of(*scan_nodes(path, reference.run(images, reference.scan_inputs())))
    small = dict(spec.formats) | {"skip": Format(4, 9)}
    write_scan_formats(path, [dataclasses.replace(spec, formats=small)])
    with pytest.raises(UserError, match=r"number formats are not those of this scan.*export the"):
        lower(path, {})
