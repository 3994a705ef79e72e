"""Each network of the article's ablation, narrow, goes all the way to a build for each target."""

import pytest

from lmaunet.spec import named_spec
from lmaunet.stage import read_json

NAMES = ("unet", "unet-large-kernel", "unet-mamba", "base")
TARGETS = ("ort", "openvino", "trt", "fpga")


def narrow(name):
    """Return the spec in few channels, for the smallest image that its pyramid takes."""
    widths = (4, 8, 8, 8, 8)
    return named_spec(name).replace(
        widths=widths, decoder_widths=widths[:4], pyramid_width=8, pyramid_bins=(1, 2), states=2,
        input_size=(64, 64),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_from_training_to_every_target(name, tmp_path, run):
    from lmaunet.deploy import commands
    from lmaunet.deploy.quantizing import QatOptions
    from lmaunet.deploy.runs import DataSource

    folder = tmp_path / "run"
    commands.train(folder, narrow(name), DataSource(None), 1, 1e-2, 8, 0)
    checkpoint = folder / "train" / "model.pt"
    commands.qat(folder, checkpoint, None, None, QatOptions(1, 1e-3, 8, 0))
    assert read_json(folder / "qat" / "qat.json")["scores"]["qat"]["dice"] >= 0
    for target in TARGETS:
        status, out, err = run("build", "--target", target, "--run", folder)
        assert status == 0 and "DISAGREES" not in out and "agrees" in out, (target, err)
        deployment = read_json(folder / "build" / target / "deployment.json")
        assert deployment["target"] == target
