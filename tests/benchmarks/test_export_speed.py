import export_speed
import pytest


@pytest.fixture(scope="module")
def small():
    return export_speed.quantized_network(1, 4)


def test_stages_add_up_to_the_export(small):
    seconds, exported = export_speed.time_export(*small)
    stages = [s for name, s in seconds.items() if not name.startswith(" ") and name != "export"]
    assert len(stages) == 3 and "  pad folding" in seconds
    assert 0 < sum(s[0] for s in stages) <= seconds["export"][0]
    assert sum(n.op_type == "Conv" for n in exported.graph.node) > 40
