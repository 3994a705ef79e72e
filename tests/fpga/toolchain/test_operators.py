from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import qonnx_nets

import lmaunet.fpga.simulation.compilation as simulation
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.environment import SimulatorMissing, load_finn
from lmaunet.fpga.graph.lower import lower
from lmaunet.fpga.operators.registry import OPERATORS
from lmaunet.fpga.toolchain.assemble import assemble, specialize

OWN = {f"{name}_rtl" for name, kind in OPERATORS.items() if kind.finn_attributes is not None}


@pytest.fixture(scope="module")
def mapped(whole):
    return specialize(whole.model, BOARDS["ZCU104"])


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A network with what the other one lacks."""
    path = qonnx_nets.blocks(tmp_path_factory.mktemp("qonnx") / "blocks.onnx")
    return specialize(assemble(lower(path, {})), BOARDS["ZCU104"])


def operator(mapped, op_type: str):
    from qonnx.custom_op.registry import getCustomOp

    return getCustomOp(next(n for n in mapped.graph.node if n.op_type == op_type))


@pytest.fixture
def model(mapped, others, op_type):
    """The one of both that has an operator."""
    return mapped if any(n.op_type == op_type for n in mapped.graph.node) else others


def test_every_node_is_mapped(mapped, others):
    nodes = [*mapped.graph.node, *others.graph.node]
    assert {n.domain.rsplit(".", 1)[1] for n in nodes} == {"rtl", "hls"}
    assert all(n.op_type.endswith(("_rtl", "_hls")) for n in nodes)
    assert {n.op_type for n in nodes} >= OWN


def test_vector_units_have_hls_only_on_this_device(mapped):
    assert {n.op_type for n in mapped.graph.node if n.op_type.startswith("VVAU")} == {"VVAU_hls"}


@pytest.mark.parametrize("op_type", sorted(OWN))
def test_rtl_is_generated(model, tmp_path, op_type):
    node = operator(model, op_type)
    with pytest.raises(UserError, match="generate its HDL first"):
        node.get_rtl_file_list()
    node.set_nodeattr("code_gen_dir_ipgen", str(tmp_path))
    node.generate_hdl(model, BOARDS["ZCU104"].part, 4.0)
    files = node.get_rtl_file_list(abspath=True)
    assert [Path(file).name for file in files] == node.get_rtl_file_list()
    assert all(Path(file).exists() for file in files)
    top = node.get_verilog_top_module_name()
    text = Path(files[-1]).read_text()
    names = node.get_verilog_top_module_intf_names()
    for stream, bits in (*names["s_axis"], *names["m_axis"]):
        assert f"wire [{bits - 1}:0] {stream}_tdata" in text
    added = [f"add_files -norecurse {file}" for file in files]
    assert node.code_generation_ipi() == [
        *added, f"create_bd_cell -type module -reference {top} {node.onnx_node.name}"
    ]  # fmt: skip
    try:
        simulation.verilator_place()
    except ToolNotFound as error:
        pytest.skip(str(error))
    simulation.lint_files(files, top, tmp_path)


@pytest.mark.parametrize("op_type", sorted(OWN))
def test_shapes_and_types_fit_the_tensors(model, op_type):
    node = operator(model, op_type)
    output = node.onnx_node.output[0]
    assert list(node.get_normal_output_shape()) == model.get_tensor_shape(output)
    folded = node.get_folded_output_shape()
    assert np.prod(folded) == np.prod(node.get_normal_output_shape())
    bits = node.get_output_datatype().bitwidth()
    assert node.get_outstream_width() == folded[-1] * bits
    assert node.lut_estimation(BOARDS["ZCU104"].part) > 0


def test_folding_divides_the_cycles(mapped):
    node = operator(mapped, "Requantize_rtl")
    channels, vectors = node.get_nodeattr("NumChannels"), node.get_nodeattr("numInputVectors")
    node.set_nodeattr("PE", 2)
    assert node.get_exp_cycles() == np.prod(vectors) * channels // 2
    assert node.dsp_estimation(BOARDS["ZCU104"].part) == 2
    node.set_nodeattr("PE", 3)
    with pytest.raises(UserError, match="PE=3 does not divide channels=4; use 1, 2 or 4"):
        node.verify_node()
    node.set_nodeattr("PE", 1)


def test_the_scan_counts_its_lanes(mapped):
    node = operator(mapped, "SelectiveScan_rtl")
    assert node.get_exp_cycles() == 64 * 6 * 4
    assert node.get_instream_width(0) == 8
    assert node.get_instream_width(4) == 0
    node.set_nodeattr("PD", 2)
    node.set_nodeattr("PN", 2)
    assert node.get_exp_cycles() == 64 * 6
    assert node.dsp_estimation("") == 5 * 4 + 3 * 2
    node.set_nodeattr("PN", 4)
    with pytest.raises(UserError, match="PD=2, PN=4: 3 states for each lane, expected 6 or more"):
        node.verify_node()
    node.set_nodeattr("PD", 4)
    with pytest.raises(UserError, match="PD=4 does not divide channels=6; use 1, 2, 3 or 6"):
        node.get_exp_cycles()
    node.set_nodeattr("PD", 1)
    node.set_nodeattr("PN", 1)


def test_the_simulator_that_is_not_there_says_so():
    load_finn()
    with pytest.raises(ToolNotFound, match="vivado is missing: it is needed to simulate RTL"):
        SimulatorMissing("so", "wdb")


def test_an_operator_without_a_backend_is_refused(whole):
    import copy

    model = copy.deepcopy(whole.model)
    model.graph.node[0].domain = "finn.custom_op.general"
    with pytest.raises(UserError, match="no hardware backend for: "):
        specialize(model, BOARDS["ZCU104"])


def test_missing_finn_names_its_fix(monkeypatch):
    import lmaunet.fpga.environment as environment

    monkeypatch.setattr(environment, "finn_place", lambda: "")
    with pytest.raises(ToolNotFound, match=r"finn-plus is missing: .*pip install"):
        environment.load_finn.__wrapped__()
