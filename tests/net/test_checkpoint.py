import pickle

import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, restore, save_checkpoint


@pytest.fixture
def saved(tmp_path, tiny_model, tiny_spec):
    path = tmp_path / "model.pt"
    save_checkpoint(path, tiny_spec, tiny_model, dice=0.5)
    return path


def test_round_trip(saved, tiny_model, tiny_spec):
    loaded = load_checkpoint(saved)
    assert loaded.spec == tiny_spec and loaded.notes == {"dice": 0.5}
    for key, value in restore(loaded, saved).state_dict().items():
        assert torch.equal(value, tiny_model.state_dict()[key])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_plain_state_dicts_of_other_trainers_load(tmp_path, tiny_model, tiny_spec, wrap):
    state = {f"module.{k}": v for k, v in tiny_model.state_dict().items()}
    path = tmp_path / "foreign.pt"
    torch.save(wrap(state), path)
    model = restore(load_checkpoint(path, tiny_spec), path)
    assert torch.equal(model.head.weight, tiny_model.head.weight)
    with pytest.raises(UserError, match="plain state dict; name its network with --spec"):
        load_checkpoint(path)


class Evil:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_pickle_is_never_executed(tmp_path):
    target, path = tmp_path / "owned", tmp_path / "evil.pt"
    torch.save({"state_dict": Evil(target)}, path)
    with pytest.raises(UserError, match=r"holds more than tensors .* was not executed"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil(target)))
    target.unlink(missing_ok=True)
    with pytest.raises(UserError):
        load_checkpoint(path)
    assert not target.exists()


def test_what_is_not_a_checkpoint(tmp_path, saved):
    text = tmp_path / "text.pt"
    text.write_text("hello, this is no checkpoint")
    with pytest.raises(UserError, match=r"text.pt"):
        load_checkpoint(text)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged or truncated"):
        load_checkpoint(cut)
    empty = tmp_path / "empty.pt"
    empty.touch()
    with pytest.raises(UserError, match=r"empty.pt"):
        load_checkpoint(empty)
    with pytest.raises(UserError, match="does not exist or is not a file"):
        load_checkpoint(tmp_path)
    torch.save([1, 2], text)
    with pytest.raises(UserError, match="holds a list, expected a dictionary of tensors"):
        load_checkpoint(text)


def test_other_networks_are_named(saved, tmp_path, tiny_model, tiny_spec):
    loaded = load_checkpoint(saved)
    with pytest.raises(UserError, match=r"other shapes: .* expected .*choose its --spec"):
        restore(type(loaded)(tiny_spec.replace(states=4), loaded.state), saved)
    with pytest.raises(UserError, match="of another network: 1 tensors missing"):
        state = {k: v for k, v in loaded.state.items() if k != "head.weight"}
        restore(type(loaded)(tiny_spec, state), saved)
    with pytest.raises(UserError, match="weights that are not finite"):
        state = {k: v * float("nan") if k == "head.weight" else v for k, v in loaded.state.items()}
        restore(type(loaded)(tiny_spec, state), saved)
    with pytest.raises(UserError, match="a quantized checkpoint; give the FP32 checkpoint"):
        restore(type(loaded)(tiny_spec, loaded.state, "quantized"), saved)
    content = torch.load(saved, weights_only=True)
    torch.save({**content, "schema": 99}, saved)
    with pytest.raises(UserError, match="schema 99, expected 1"):
        load_checkpoint(saved)
