"""The table of a design's modules: what is synthesised once, kept, compared and summed."""

from __future__ import annotations

import copy
import dataclasses

import network_synthesis as network_synthesis
import pytest
from network_synthesis import (
    NO_ESTIMATE,
    Part,
    Synthesiser,
    by_operator,
    distinct,
    divide,
    left_out,
    markdown,
    parts_of,
    rows_of,
    summarize,
    synthesize_parts,
)
from synthesis import Synthesised

from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.operators import fifo, width_converter
from lmaunet.fpga.operators.rtl_module import Port, RtlModule
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.sizing.search import Sizing
from lmaunet.fpga.toolchain import design_parts
from lmaunet.fpga.toolchain.assemble import apply_folding, specialize
from lmaunet.fpga.toolchain.design_parts import CONVERTER, FIFO, digest
from lmaunet.fpga.toolchain.yosys import for_dsp48e1

BOARD = BOARDS["ZCU104"]


class Yosys:
    """Stands in for yosys: LUTs by a module's name, and what it was asked for."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.runs: list[tuple[str, list[str]]] = []
        self.stop_at = stop_at

    def __call__(self, modules, family):
        if len(self.runs) == self.stop_at:
            raise KeyboardInterrupt
        self.runs.append((family, [module.name for module in modules]))
        return [self.of(module, family) for module in modules]

    def of(self, module, family):
        if module.name != "matrix_vector":
            return Synthesised.of({"LUT6": 10 * len(module.name), "FDRE": 7})
        lut, ff = {"xcup": (300, 400), "xc7": (200, 150)}[family]
        return Synthesised.of({"LUT6": lut, "FDRE": ff, "DSP48E2": 4, "RAMB18E2": 1})


def matrix(weights="00", **parameters) -> RtlModule:
    given = {"LANES": 2, "LANE_BITS": 19, "FIELD_BITS": 18, "WEIGHT_BITS": 8,
             "WEIGHTS": "weights.mem"} | parameters  # fmt: skip
    return RtlModule(
        "matrix_vector", ("matrix_vector.sv",), given, (Port("in0_V", 8),), (Port("out0_V", 20),),
        {"weights.mem": [weights]},
    )  # fmt: skip


def part(name, module, operator="MVAU", finn=None) -> Part:
    estimated = Resources(100, 4, (Memory("weights", 8, 1024, True),), 50)
    return Part(name, operator, module, estimated, NO_ESTIMATE | (finn or {}))


PARTS = [
    part("a", matrix("01"), finn={"lut": 0, "dsp": 2}),
    part("b", matrix("02"), finn={"lut": 0, "dsp": 2}),
    part("c", fifo.module(fifo.layout(8, 2)), FIFO),
]


def test_what_differs_in_its_memories_only_is_one_module():
    assert digest(matrix("01"), "xcup") == digest(matrix("7f"), "xcup")
    assert [[p.name for p in same] for same in distinct(PARTS).values()] == [["a", "b"], ["c"]]


def check_that_digests_differ(digest):
    of = digest(matrix(), "xcup")
    assert of != digest(matrix(LANE_BITS=18), "xcup")
    assert of != digest(matrix(), "xc7")
    assert of != digest(dataclasses.replace(matrix(), generated={"x.sv": "module"}), "xcup")
    assert digest(fifo.module(fifo.layout(8, 2)), "xcup") != digest(
        fifo.module(fifo.layout(8, 32)), "xcup"
    )


def test_other_parameters_sources_or_families_are_other_modules(mutant_of):
    check_that_digests_differ(digest)
    right = '"module": module.name,\n        "parameters": dict(module.parameters),'
    wrong = mutant_of(design_parts, right, '"module": module.name,')
    with pytest.raises(AssertionError):
        check_that_digests_differ(wrong.digest)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        synthesize_parts(PARTS, Synthesiser(tmp_path, Yosys(stop_at=1)), batch=1)
    rest = Yosys()
    synthesize_parts(PARTS, Synthesiser(tmp_path, rest), batch=1)
    assert sum(family == "xcup" for family, _ in rest.runs) == 1
    again = Yosys()
    synthesize_parts(PARTS, Synthesiser(tmp_path, again))
    assert again.runs == []


def test_small_modules_share_a_run_and_only_dsps_need_the_other_family(tmp_path):
    yosys = Yosys()
    synthesize_parts(PARTS, Synthesiser(tmp_path, yosys))
    assert yosys.runs == [("xcup", ["matrix_vector", "fifo"]), ("xc7", ["matrix_vector"])]
    large = Yosys()
    synthesize_parts(PARTS, Synthesiser(tmp_path / "large", large), batch_lut=1)
    assert [names for _, names in large.runs] == [["matrix_vector"], ["matrix_vector"], ["fifo"]]


def test_a_damaged_count_is_named(tmp_path):
    synthesiser = Synthesiser(tmp_path, Yosys())
    synthesiser.run([matrix()], "xcup")
    next(tmp_path.glob("*.json")).write_text("{}")
    with pytest.raises(UserError, match=r"\.json is damaged \(KeyError\('cells'\)\); delete it"):
        synthesiser.known(matrix(), "xcup")


def test_luts_and_flip_flops_are_those_with_filled_dsps(tmp_path):
    filled, left = Synthesiser(tmp_path, Yosys()).filled(matrix())
    assert (filled.lut, filled.ff, filled.dsp, filled.bram18) == (200, 150, 4, 1)
    assert (left.lut, left.ff, left.dsp) == (300, 400, 4)


def test_operands_are_made_to_fit_the_smaller_dsp():
    fitted = for_dsp48e1(matrix()).parameters
    assert (fitted["LANE_BITS"], fitted["PORT_BITS"]) == (17, 25)
    assert for_dsp48e1(matrix(LANES=3, LANE_BITS=11, WEIGHT_BITS=4)).parameters["LANE_BITS"] == 10
    assert for_dsp48e1(matrix(LANES=1, LANE_BITS=27)).parameters["LANE_BITS"] == 25
    # a row's bits stay, unless it would share another number of them
    for lane, field, kept in ((19, 16, 16), (19, 19, 17), (19, 20, 18)):
        fitted = for_dsp48e1(matrix(LANE_BITS=lane, FIELD_BITS=field)).parameters
        assert (fitted["LANE_BITS"], fitted["FIELD_BITS"]) == (17, kept)
    wide = {"MULTIPLY": 1, "MULTIPLIER_BITS": 26, "OFFSET_BITS": 40, "SUM_BITS": 41}
    module = RtlModule("requantize", (), wide, (), ())
    assert for_dsp48e1(module).parameters == {
        "MULTIPLY": 1, "MULTIPLIER_BITS": 24, "OFFSET_BITS": 42, "SUM_BITS": 42,
    }  # fmt: skip
    narrow = dataclasses.replace(module, parameters=wide | {"MULTIPLIER_BITS": 17})
    assert for_dsp48e1(narrow).parameters == narrow.parameters
    assert for_dsp48e1(fifo.module(fifo.layout(8, 2))) == fifo.module(fifo.layout(8, 2))


def test_rows_sum_up_and_what_finn_does_not_know_is_never_zero(tmp_path):
    rows = rows_of(PARTS, Synthesiser(tmp_path, Yosys()))
    assert rows[0]["module"] == rows[1]["module"] != rows[2]["module"]
    assert rows[0]["estimated"] == {"lut": 100, "ff": 50, "dsp": 4, "bram18": 1, "uram": 0}
    operators, total = by_operator(rows), summarize(rows)
    assert (operators["MVAU"]["rows"], operators["MVAU"]["modules"]) == (2, 1)
    assert operators["MVAU"]["yosys"]["lut"] == 2 * 200
    assert operators["MVAU"]["yosys_unfilled"] == {"lut": 600, "ff": 800}
    assert operators["MVAU"]["finn"] == {"lut": 0, "dsp": 4, "bram18": None, "uram": None}
    assert operators[FIFO]["finn"] == NO_ESTIMATE
    assert total["finn"]["dsp"] == 4 and total["finn_rows"]["dsp"] == 2
    for count in ("lut", "ff", "dsp", "bram18"):
        assert total["yosys"][count] == sum(o["yosys"][count] for o in operators.values())
    table = markdown(operators, total).splitlines()
    assert table[2].startswith("| FIFO | 1, 1 | 40 / 100 / none | 7 / 50 | 0 / 4 / none |")
    assert table[3].startswith("| MVAU | 2, 1 | 400 / 200 / 0 | 300 / 100 | 8 / 8 / 4 |")


def test_what_is_not_synthesised_is_counted_apart(tmp_path):
    synthesiser = Synthesiser(tmp_path, Yosys())
    synthesiser.run([PARTS[0].module, PARTS[2].module], "xcup")
    # of the module with DSPs the other family is missing
    known, other = divide(PARTS, synthesiser)
    assert ([p.name for p in known], [p.name for p in other]) == (["c"], ["a", "b"])
    found = left_out(other)
    assert found["rows"] == {"MVAU": 2}
    assert found["estimated"] == {"lut": 200, "ff": 100, "dsp": 8, "bram18": 2, "uram": 0}
    synthesize_parts(PARTS, synthesiser)
    assert divide(PARTS, synthesiser) == (PARTS, [])
    assert left_out([])["estimated"]["lut"] == 0


@pytest.fixture(scope="module")
def folded(whole):
    model = copy.deepcopy(whole.model)
    shapes = whole.lowered.graph.shapes
    design = Sizing(Executor(model.model), shapes).design(2000, BOARD, 250.0)
    mapped = specialize(model, BOARD)
    apply_folding(design, mapped)
    return mapped, Network(Executor(mapped.model), shapes)


def test_a_design_is_its_nodes_its_fifos_and_its_converters(folded):
    model, network = folded
    fifos = {tensor: network.layout(tensor, 100) for tensor in network.waiting}
    parts = parts_of(network, model, BOARD.part, fifos)
    nodes = [p for p in parts if p.operator not in (FIFO, CONVERTER)]
    assert [p.name for p in nodes] == [node.name for node in network.nodes]
    # a stream more than tensors that a node puts out: the image
    assert sum(p.operator == FIFO for p in parts) == 1 + sum(len(n.outputs) for n in network.nodes)
    deep = {
        p.name for p in parts if p.module == fifo.module(fifo.layout(p.module.inputs[0].bits, 100))
    }
    assert deep == network.waiting
    converters = [p for p in parts if p.operator == CONVERTER]
    assert converters
    for p in converters:
        ends = p.module.inputs[0].bits, p.module.outputs[0].bits
        assert ends[0] != ends[1] and p.module == width_converter.module(*ends)
    without = parts_of(network, model, BOARD.part, None)
    assert {p.name for p in parts if p.operator == FIFO} - {
        p.name for p in without if p.operator == FIFO
    } == network.waiting


def test_fifos_in_dram_are_counted_with_their_port(folded):
    model, network = folded
    tensors = sorted(t for t in network.waiting if network.fifos({})[t].bits <= 64)[:2]
    placed = network.placed(dict.fromkeys(tensors, "dram"))
    fifos = {tensor: placed.layout(tensor, 100) for tensor in network.waiting}
    parts = parts_of(network, model, BOARD.part, fifos)
    queues = {p.name: p for p in parts if p.module.name == "dram_fifo"}
    assert set(queues) == set(tensors)
    assert all(len(part.estimated.memories) == 2 for part in queues.values())
    assert [p.module.parameters["CLIENTS"] for p in parts if p.module.name == "dram_port"] == [2]


def test_finn_is_asked_only_for_what_it_estimates(folded):
    model, network = folded
    found = {p.operator: p.finn for p in parts_of(network, model, BOARD.part, None)}
    for own in ("Requantize", "SelectiveScan", "PadWithCode", "TableActivation", FIFO):
        assert found[own] == NO_ESTIMATE, own
    assert found["MVAU"]["lut"] == 0 and found["MVAU"]["dsp"] > 0
    assert found["ConvolutionInputGenerator"]["lut"] > 0
    assert found["ConvolutionInputGenerator"]["dsp"] is None
