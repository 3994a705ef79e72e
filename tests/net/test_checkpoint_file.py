import argparse
import collections
import datetime
import decimal
import io
import pathlib
import pickle
import struct
import tarfile
import uuid
import zipfile

import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.net.checkpoint_file import read_file
from lmaunet.net.plain_pickle import PlainArray

HARMLESS = {
    "numpy.float64": (np.float64(0.4), 0.4),
    "numpy.float16": (np.float16(0.5), 0.5),
    "numpy.int64": (np.int64(-3), -3),
    "numpy.uint8": (np.uint8(3), 3),
    "numpy.bool": (np.bool_(True), True),
    "numpy.str": (np.str_("hé"), "hé"),
    "OrderedDict": (collections.OrderedDict(a=1), {"a": 1}),
    "Counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "defaultdict": (collections.defaultdict(list, a=[np.float64(1)]), {"a": [1.0]}),
    "deque": (collections.deque([1, 2], 5), [1, 2]),
    "Size": (torch.Size([1, 2]), (1, 2)),
    "torch.dtype": (torch.float32, torch.float32),
    "set": ({1, 2}, {1, 2}),
    "bytes": (b"ab", b"ab"),
}
DROPPED = {
    "Namespace": argparse.Namespace(lr=1e-3, folder=pathlib.Path("/x")),
    "Path": pathlib.PurePosixPath("a/b"),
    "datetime": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(1),
    "UUID": uuid.UUID(int=3),
    "Decimal": decimal.Decimal("1.5"),
    "numpy.dtype": np.dtype("f4"),
    "numpy type": np.float32,
    "objects": np.array(["a", None], dtype=object),
    "frozenset": frozenset({1}),
    "TorchVersion": torch.torch_version.TorchVersion("2.1.0"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [*HARMLESS, *DROPPED])
def test_harmless_objects_load(kind, zipped, tmp_path):
    given, wanted = HARMLESS.get(kind, (DROPPED.get(kind), None))
    path = tmp_path / "a.pt"
    torch.save({"x": given, "y": 1}, path, _use_new_zipfile_serialization=zipped)
    read = read_file(path)
    assert read["y"] == 1
    if kind in HARMLESS:
        assert read["x"] == wanted


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">i4"), np.array(3.5), np.zeros((0, 3)),
    ],
)  # fmt: skip
def test_arrays_keep_their_numbers(array, tmp_path):
    path = tmp_path / "a.pt"
    torch.save([array], path)
    (read,) = read_file(path)
    assert isinstance(read, PlainArray) and np.array_equal(read.values, array)


def test_a_crafted_array_reaches_no_code_of_numpy(tmp_path):
    """An array of objects whose state is bytes would be pointers to numpy."""

    class Array:
        def __reduce__(self):
            state = (1, (2,), np.dtype("f8"), False, b"\0" * 8)
            return (np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state)

    path = tmp_path / "a.pt"
    torch.save([Array()], path)
    with pytest.raises(UserError, match=r"a\.pt"):
        read_file(path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_and_never_run(zipped, tmp_path):
    target, path = tmp_path / "owned", tmp_path / "evil.pt"
    torch.save({"state_dict": Evil(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"it asks for \S*open; it was not executed"):
        load_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_model_is_named_by_its_class(zipped, other_net, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(other_net, path, _use_new_zipfile_serialization=zipped)
    text = r"asks for lmaunet\.net\.network\.LMaUNet; .* save it again as torch\.save\(model\.st"
    with pytest.raises(UserError, match=text):
        load_checkpoint(path)


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO(b""))


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)


def scripted(path):
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), path)


KINDS = {
    "TorchScript": (scripted, "is a TorchScript module, which is code; save its weights"),
    "HDF5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file"),
    "npy": (lambda p: np.save(p.open("wb"), np.ones(3)), r"is a numpy array \(\.npy\)"),
    "npz": (lambda p: np.savez(p.open("wb"), a=np.ones(3)), r"numpy arrays \(\.npz\)"),
    "safetensors": (
        lambda p: p.write_bytes(struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"}}' + bytes(80)),
        "is a safetensors file; load it with safetensors.torch.load_file",
    ),
    "ONNX": (
        lambda p: p.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:" + bytes(50)),
        "is an ONNX model; give the checkpoint that it was exported from",
    ),
    "git-lfs": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "pointer of git-lfs, .*git lfs pull",
    ),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(30)), "compressed with gzip; unpack"),
    "HTML": (lambda p: p.write_text("<!DOCTYPE html><html>"), "is a page of HTML or XML; download"),
    "JSON": (lambda p: p.write_text('{"epoch": 3}'), "is a text file, JSON perhaps"),
    "tar": (tar, "is a tar archive; unpack it"),
    "zip of it": (lambda p: zipped(p, best_dot_pt=b"12"), "an archive with 'best.pt' in it"),
    "office": (lambda p: zipped(p, word__document=b"12"), "a zip archive that torch.save did not"),
    "Keras": (lambda p: zipped(p, model_dot_weights_dot_h5=b"1", config=b"2"), "is a Keras model"),
    "pt2": (lambda p: zipped(p, m__archive_format=b"pt2", m__data_dot_pkl=b""), "exported program"),
    "pickle": (
        lambda p: p.write_bytes(pickle.dumps({"a": 1}, protocol=4)), "a pickle of protocol 4"
    ),
    "torch, protocol 4": (
        lambda p: torch.save({"a": torch.ones(2)}, p, pickle_protocol=4), "a pickle of protocol 4"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_files_are_named(kind, tmp_path):
    write, text = KINDS[kind]
    path = tmp_path / "given.pt"
    write(path)
    with pytest.raises(UserError, match=text) as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)


def repacked(path, content, change):
    """Write a checkpoint whose pickle is changed, with checksums that fit."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as given, zipfile.ZipFile(path, "w") as archive:
        for name in given.namelist():
            raw = given.read(name)
            archive.writestr(name, change(raw) if name.endswith("data.pkl") else raw)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-3],
        lambda raw: raw.replace(b"FloatStorage", b"Float\xff\xfftorage"),
        lambda raw: raw.replace(b"cpu", b"cp\xff"),
        lambda raw: raw.replace(b"}q\x00", b"Nq\x00", 1),
        lambda raw: raw.replace(b"\x80\x02", b"\x80\x02Q", 1),
        lambda raw: raw.replace(b"storage", b"strings"),
        lambda raw: b"\x80\x02K",
        lambda raw: b"\x80\x02G\x00\x00.",
        lambda raw: b"",
    ],
)
def test_a_damaged_pickle_is_one_message(change, state, tmp_path):
    path = tmp_path / "a.pt"
    repacked(path, state, change)
    with pytest.raises(UserError, match=r"a\.pt"):
        load_checkpoint(path)


def test_a_tensor_that_claims_more_numbers_than_there_are(tmp_path, state):
    path = tmp_path / "a.pt"
    for huge in (b"J\xff\xff\xff\x7f", b"\x8a\x08" + struct.pack("<q", 2**60)):
        repacked(path, {"head.weight": torch.ones(1000)},
                 lambda raw, huge=huge: raw.replace(b"M\xe8\x03", huge))  # fmt: skip
        with pytest.raises(UserError, match=r"a\.pt"):
            load_checkpoint(path)


def test_numbers_that_are_not_in_the_file(tmp_path, state, loaded_from):
    wide = torch.ones(1, 1, 1, 1).expand(4, 10**9, 1, 1)
    for odd in (wide, state["head.weight"].to("meta")):
        with pytest.raises(UserError, match="declares numbers that it does not hold"):
            loaded_from({**state, "head.weight": odd})
    with pytest.raises(UserError, match="sparse or complex tensors, or quantized"):
        loaded_from({**state, "head.weight": state["head.weight"].to(torch.float8_e5m2)})
