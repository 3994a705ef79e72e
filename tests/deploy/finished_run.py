"""A run with every stage and an ort build, of a network that trains in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmaunet.stage import write_json

RUN = Path("runs") / "demo-phantom"


def make(place: Path) -> Path:
    """Make it in ``place/runs/demo-phantom`` by the functions of the commands; return the place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        from lmaunet.deploy import commands
        from lmaunet.deploy.quantizing import QatOptions
        from lmaunet.deploy.runs import DataSource
        from lmaunet.spec import named_spec
        from lmaunet.stated_spec import state_spec

        tiny = named_spec("demo").replace(
            input_size=(32, 32), widths=(4, 8, 8, 12, 16), states=4,
            decoder_widths=(4, 8, 8, 12), pyramid_width=16,
        )  # fmt: skip
        write_json(place / "tiny.json", tiny.to_json())
        spec = state_spec("tiny.json").for_training()
        commands.train(None, spec, DataSource(None), 1, 3e-3, 8, 0)
        (checkpoint,) = place.glob("runs/*/train/model.pt")
        commands.qat(None, checkpoint, None, None, QatOptions(1, 1e-4, 8, 0))
        commands.build(None, "ort", {"cpu": "any", "operators": False})
        commands.report(None, None, False)
    return place
