import numpy as np
import pytest

from lmaunet.deploy.export_images import CALIBRATION, calibration_of, images_of, write_calibration
from lmaunet.errors import UserError
from lmaunet.quant.calibration import choose_slices


def test_the_images_that_calibrated_go_along_for_an_fp16_build_alone(tmp_path, tiny_data):
    assert calibration_of(tmp_path, {"precision": "fp16"}) == {}
    write_calibration(tmp_path, tiny_data)
    for precision in ("int8", "fp32", None):
        assert calibration_of(tmp_path, {"precision": precision}) == {}
    found = calibration_of(tmp_path, {"precision": "fp16"})
    assert found == {"calibration": tmp_path / CALIBRATION}
    np.savez(tmp_path / "samples.npz", images=np.ones((2, 1, 4, 4), np.float32))
    samples, none = images_of({"samples": tmp_path / "samples.npz"})
    assert samples.shape == (2, 1, 4, 4) and none is None
    _, calibration = images_of({"samples": tmp_path / "samples.npz", **found})
    assert np.array_equal(calibration, tiny_data.train.images[choose_slices(tiny_data)])


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "samples.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError):
        images_of({"samples": tmp_path / "samples.npz"})
