import errno
import pickle

import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, restore, save_checkpoint
from lmaunet.stated_spec import StatedSpec


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


def test_a_full_disk_is_said_and_leaves_the_old_file(saved, tiny_spec, tiny_model, monkeypatch):
    kept = saved.read_bytes()
    write = type(saved).write_bytes

    def full(path, content):
        write(path, bytes(content[:100]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(saved), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, tiny_spec, tiny_model, dice=0.7)
    assert saved.read_bytes() == kept and list(saved.parent.iterdir()) == [saved]


def test_a_flipped_bit_is_seen(saved):
    """torch.load itself would hand it on as a weight."""
    content = torch.load(saved, weights_only=True)
    raw = bytearray(saved.read_bytes())
    at = raw.find(content["state"]["head.weight"].numpy().tobytes())
    assert at > 0
    raw[at + 1] ^= 0x40
    saved.write_bytes(raw)
    with pytest.raises(UserError, match=r"model\.pt is damaged: .* does not match its checksum"):
        load_checkpoint(saved)


def edited(spec, **changes):
    return {"spec": {**spec, **changes}}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: {"spec": None}, "not a network specification"),
        (lambda c: edited(c["spec"], classes=9.0), "classes=9.0; give 1 or more, whole"),
        (lambda c: edited(c["spec"], pyramid_width="8"), "pyramid_width='8'; give 1 or more"),
        (lambda c: edited(c["spec"], pyramid="bins", pyramid_bins=[0]), r"pyramid_bins=\(0,\)"),
        (lambda c: edited(c["spec"], widths=[10**6] * 5), "widths=.*; give at most 16,384"),
        (lambda c: edited(c["spec"], widths=[10**4] * 5), "of another network: 8 tensors missing"),
        (lambda c: edited(c["spec"], states=900), r"expected \(8, 900\)"),
        (
            lambda c: edited(c["spec"], widths=c["state"]["head.weight"]),
            "widths=.*, expected a list",
        ),
        (
            lambda c: edited(c["spec"], widths=[4.0, 8, 8, 8, 8]),
            "widths=.*, expected a list of whole",
        ),
        (lambda c: edited(c["spec"], widths="48888"), "widths='48888', expected a list of whole"),
        (lambda c: edited(c["spec"], name=None), "name='None', expected text"),
        (lambda c: edited(c["spec"], depth=3), "unknown 'depth'; its fields are name, widths"),
        (lambda c: {"schema": torch.ones(2)}, r"has schema tensor.*, expected 1"),
        (lambda c: {"kind": None}, "lacks a usable kind or notes"),
        (lambda c: {"notes": [1]}, "lacks a usable kind or notes"),
        (lambda c: {"notes": {"classes": [1, 2]}}, "lacks a usable kind or notes"),
        (lambda c: {"state": None}, "holds no state dict"),
        (lambda c: {"state": {**c["state"], "head.weight": 3}}, "holds no state dict"),
        (
            lambda c: {"state": {k: v.to_sparse() for k, v in c["state"].items()}},
            "holds sparse or complex tensors",
        ),
        (
            lambda c: {"state": {k: v.to(torch.complex64) for k, v in c["state"].items()}},
            "holds sparse or complex tensors",
        ),
        (
            lambda c: {"state": {k: v.to(torch.int8) for k, v in c["state"].items()}},
            r"holds torch\.int8 for .*; expected floating-point weights",
        ),
        (
            lambda c: {"state": {k: v - 9 * ("_var" in k) for k, v in c["state"].items()}},
            "holds variances below 0",
        ),
    ],
)
def test_a_checkpoint_with_odd_content_is_refused_by_name(saved, change, text):
    content = torch.load(saved, weights_only=True)
    torch.save({**content, **change(content)}, saved)
    with pytest.raises(UserError, match=text) as raised:
        restore(load_checkpoint(saved), saved)
    assert "model.pt" in str(raised.value)


def test_a_spec_beside_the_file_s_own(saved, tiny_spec):
    text = r"differs from the one given in .*; give the spec that it was trained with, or none"
    assert load_checkpoint(saved, StatedSpec.of(tiny_spec)).spec == tiny_spec
    with pytest.raises(UserError, match=text):
        load_checkpoint(saved, StatedSpec.of(tiny_spec.replace(states=4)))


def test_other_networks_are_named(saved, tmp_path, tiny_model, tiny_spec):
    loaded = load_checkpoint(saved)
    with pytest.raises(UserError, match=r"other shapes .* expected .*docs/checkpoints.md"):
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
