"""What holds for every operator, whichever they are."""

from __future__ import annotations

import ast
from pathlib import Path

import cases
import pytest

import lmaunet.fpga
from lmaunet.errors import UserError
from lmaunet.fpga.build_detail import whose_rtl
from lmaunet.fpga.environment import DOMAIN
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.operators.registry import OPERATORS, kind_of, operator

ROOT = Path(lmaunet.fpga.__file__).parent
EXAMPLES = {
    case.op_type: case
    for case in (
        cases.requantize(), cases.table_activation(), cases.elementwise(),
        cases.elementwise(multiply=False), cases.duplicate_streams(), cases.streaming_concat(),
        cases.upsample(), cases.max_pool(), cases.pad(), cases.pad(code=0), cases.depthwise_conv(),
        cases.bin_sum(), cases.depth_to_space(),
    )
}  # fmt: skip


def test_an_operators_file_is_enough_to_be_known():
    for name, kind in OPERATORS.items():
        assert kind.__name__ == name
        assert Path(ROOT, "operators", f"{kind.__module__.rsplit('.', 1)[1]}.py").exists()
    assert kind_of("MVAU_rtl") is kind_of("MVAU_hls") is kind_of("MVAU") is OPERATORS["MVAU"]
    with pytest.raises(UserError, match="unknown hardware operator Crop_rtl; known are: BinSum"):
        operator("Crop_rtl", {})


def texts_in(path: Path) -> set[str]:
    """The texts in a file's code."""
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def named_in(path: Path) -> set[str]:
    """The operators that a file names in its code; docstrings tell what they like."""
    return texts_in(path) & set(OPERATORS)


def test_no_second_list_names_the_operators():
    """Only the lowering, whose rules make the nodes, and an operator's own file name one."""
    places = [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent.name not in ("graph", "operators")
    ]
    assert len(places) > 20
    # QONNX's operator has the name of ours
    found = {path.name: names for path in places if (names := named_in(path) - {"SelectiveScan"})}
    assert found == {}
    kept = ROOT / "graph" / "executor.py", ROOT / "graph" / "memory_image.py"
    assert not any(named_in(path) for path in kept)
    for kind in OPERATORS.values():
        own = ROOT / "operators" / f"{kind.__module__.rsplit('.', 1)[1]}.py"
        here = {name for name, k in OPERATORS.items() if k.__module__ == kind.__module__}
        assert named_in(own) <= here


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_folding_is_legal_and_moves_the_same_values(name):
    case = EXAMPLES[name]
    elements = {}
    for folding in case.operator.foldings():
        folded = operator(name, dict(case.attributes) | folding)
        folded.check()
        assert set(folding) == set(folded.folded_by)
        assert folded.cycles() > 0 and folded.resources().ff > 0
        module = folded.module(list(case.constants))
        assert [p.bits for p in module.inputs] == [
            folded.stream_bits(i, output=False) for i in range(len(module.inputs))
        ]
        assert [p.bits for p in module.outputs] == [
            folded.stream_bits(i, output=True) for i in range(len(module.outputs))
        ]
        elements[tuple(folding.values())] = folded.cycles() * folded.lanes(0, output=False)
    assert len(elements) > 1 and len(set(elements.values())) == 1


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_whose_rtl_a_node_becomes(name):
    """FINN+'s RTL of what has some is never taken, and its HLS neither."""
    node = OPERATORS[name]({})
    own = node.finn_attributes is not None
    assert (
        whose_rtl(node, f"{DOMAIN}.rtl") == f"RTL of our own{'' if own else ', in place of FINN+'}"
    )
    assert whose_rtl(node, f"{DOMAIN}.hls") == f"RTL of our own{'' if own else ', in place of HLS'}"


def test_every_source_is_a_file_of_ours():
    named = {
        text
        for kind in OPERATORS.values()
        for text in texts_in(ROOT / "operators" / f"{kind.__module__.rsplit('.', 1)[1]}.py")
        if text.endswith((".sv", ".v"))
    }
    assert len(named) > 20
    assert all((ROOT / "operators" / name).exists() for name in named)
    modules = [case.module() for case in EXAMPLES.values()]
    assert not any(module.generated for module in modules)


def test_what_lacks_a_method_is_no_operator():
    class Half(Operator):
        def execute(self, inputs):
            return inputs[0]

    with pytest.raises(TypeError, match=r"abstract methods? '?cycles.*module.*resources"):
        Half({})
