import pytest
import torch


@pytest.fixture(scope="session")
def other_net(tiny_spec):
    """A network with four classes and two channels, and norms that have seen data."""
    from lmaunet.net.network import LMaUNet

    torch.manual_seed(3)
    net = LMaUNet(tiny_spec.replace(classes=4, in_channels=2))
    for name, value in net.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_()
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture
def state(other_net):
    return {name: value.clone() for name, value in other_net.state_dict().items()}


@pytest.fixture
def loaded_from(tmp_path):
    """A function that saves any content and loads it as a checkpoint."""
    from lmaunet.net.checkpoint import load_checkpoint

    def load(content, *stated, **options):
        path = tmp_path / "foreign.pt"
        torch.save(content, path)
        return load_checkpoint(path, *stated, **options)

    return load
