"""Files that refer to bytes in another: what they hold, and what reads them."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import images, small_network

from lmaunet.errors import UserError
from lmaunet.export import model_messages, reference
from lmaunet.export.model_messages import read_messages
from lmaunet.export.shared_weights import FEWEST_BYTES, share_weights


@pytest.fixture
def pair(tmp_path):
    """A whole file and one that shares with it; the second has other weights in its decoder."""
    whole, other = small_network(), small_network()
    for tensor in other.graph.initializer:
        if tensor.name == "/decoder.codes":
            codes = -numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))
    onnx.save(whole, tmp_path / "model.onnx")
    moved = share_weights(tmp_path / "model.onnx", other, tmp_path / "other.onnx")
    return tmp_path / "model.onnx", tmp_path / "other.onnx", other, moved


def bytes_of(model):
    return {t.name: (tuple(t.dims), t.data_type, t.raw_data) for t in model.graph.initializer}


def test_equal_bytes_are_stored_once_and_read_back(pair):
    whole, path, other, moved = pair
    large = [t.raw_data for t in other.graph.initializer if len(t.raw_data) >= FEWEST_BYTES]
    own = next(t.raw_data for t in other.graph.initializer if t.name == "/decoder.codes")
    assert moved == sum(map(len, large)) - len(own)
    assert path.stat().st_size < whole.stat().st_size - 0.8 * moved
    expected = bytes_of(other)
    assert bytes_of(onnx.load(path)) == expected
    assert bytes_of(read_messages(path)) == expected
    assert onnx.load(path, load_external_data=False).graph.node == other.graph.node


def test_runtimes_read_them_by_themselves(pair):
    _, path, other, _ = pair
    got = reference.run_images(reference.open_session(path, optimize=True), images())
    want = reference.run_images(reference.open_session(other, optimize=True), images())
    assert np.array_equal(got, want)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("location", "../model.onnx", "lies in another file"),
        ("location", "/etc/hostname", "lies in another file"),
        ("location", "..", "lies in another file|Is a directory"),
        ("location", "absent.onnx", "No such file"),
        ("offset", "99999999", "lies beyond the end of model.onnx"),
        ("offset", "-5", "lies beyond the end of model.onnx"),
        ("length", "99999999", "lies beyond the end of model.onnx"),
        ("length", "many", "invalid literal"),
    ],
)
def test_a_place_that_is_not_beside_the_file_or_not_in_it_is_refused(pair, key, value, words):
    _, path, _, _ = pair
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(e for e in tensor.external_data if e.key == key).value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=rf"other\.onnx is no ONNX model .*({words})"):
        read_messages(path)


def test_bytes_from_another_place_are_noticed(mutant_of, pair):
    """A reader that takes each tensor's bytes from the beginning of the file."""
    _, path, other, _ = pair
    mutant = mutant_of(model_messages, "files[name][offset : offset + length]",
                       "files[name][:length]")  # fmt: skip
    model = onnx.load(path, load_external_data=False)
    mutant.fill_external(model, path)
    assert bytes_of(model) != bytes_of(other)


def test_files_in_two_folders_cannot_share(pair, tmp_path):
    whole, _, other, _ = pair
    with pytest.raises(UserError, match="must lie beside"):
        share_weights(whole, other, tmp_path / "elsewhere" / "other.onnx")
