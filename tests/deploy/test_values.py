"""What is handed from one part of the program to the next is not changed on its way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lone_build
import pytest

from lmaunet.artifacts import Build
from lmaunet.deploy.deployment import Deployment, Interface
from lmaunet.deploy.figures import Shown
from lmaunet.deploy.gate_limits import Limit
from lmaunet.deploy.gates import Gate, Threshold
from lmaunet.deploy.outcome import Outcome
from lmaunet.deploy.quantizing import QatOptions
from lmaunet.deploy.runs import DataSource
from lmaunet.deploy.segmenter import Network, Timer
from lmaunet.deploy.targets import BuildRequest, Target, Tool
from lmaunet.deploy.targets.trt.forms import Checked, Form

VALUES = [
    BuildRequest, Checked, DataSource, Deployment, Form, Gate, Interface, Limit, Outcome,
    QatOptions, Shown, Target, Threshold, Tool,
]  # fmt: skip


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_a_value_is_equal_by_its_fields_and_cannot_be_changed(kind):
    names = [field.name for field in dataclasses.fields(kind)]
    one, same, other = (
        kind(**dict.fromkeys(names, content)) for content in ("a", "a", "b")
    )  # fmt: skip
    assert one == same != other
    for name in names:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, "b")


def test_counters_count():
    """They are the values that change."""
    timer = Timer()
    network = Network(lone_build.target(), None, 2, timer)
    network.images += 3
    timer.times_ms["read"] += 2.5
    assert (network.images, network.timer.times_ms["read"]) == (3, 2.5)
    assert Timer().times_ms["read"] == 0.0


def test_a_value_makes_another_of_what_is_written(tmp_path, tiny_spec, tiny_data):
    """Whether its kind is asked or one of it."""
    source = DataSource(Path("d"), seed=3)
    assert source.from_json(source.to_json()) == source
    interface = lone_build.interface()
    assert interface.from_json(interface.to_json(), "x") == interface
    given = (tiny_spec, "d1", tiny_data, {})
    assert interface.of(*given) == Interface.of(*given)
    (tmp_path / "model.bin").write_bytes(b"1")
    build = Build("pixels", tmp_path, tmp_path / "model.bin", ())
    deployment = Deployment.of(build, interface, build.shipped)
    assert deployment.of(build, interface, build.shipped) == deployment
    content = deployment.to_json()
    assert deployment.from_json(content, "x") == Deployment.from_json(content, "x")
