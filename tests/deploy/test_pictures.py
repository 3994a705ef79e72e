"""The overlays of the report."""

import base64

import numpy as np
import pytest
from report_forms import decode
from report_sample import sample

from lmaunet.deploy import pictures, png, render
from lmaunet.errors import UserError


def test_a_png_holds_the_pixels():
    pixels = np.random.default_rng(1).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode(png.png_data_uri(pixels)), pixels)
    np.testing.assert_array_equal(decode(png.png_data_uri(pixels[..., 0])), pixels[..., 0])


def test_a_png_is_one_for_a_strict_reader_too(tmp_path):
    import SimpleITK

    pixels = np.random.default_rng(2).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    content = base64.b64decode(png.png_data_uri(pixels).partition(",")[2])
    (tmp_path / "a.png").write_bytes(content)
    read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.png")))
    np.testing.assert_array_equal(read, pixels)


def test_slices_with_the_most_organs_are_chosen_apart_from_each_other():
    label = np.zeros((40, 8, 8), int)
    label[5, 0, :3] = (1, 2, 3)
    label[6, 0, :3] = (1, 2, 3)
    label[6, 1, :3] = (1, 2, 3)
    label[20, 0, :2] = (1, 2)
    label[30, 0, 0] = 1
    assert pictures.choose_slices(label, 3) == [6, 20, 30]
    assert pictures.choose_slices(label, 4) == [5, 6, 20, 30]
    assert pictures.choose_slices(label * 0, 4) == []


def test_a_row_has_a_tile_for_each_column_in_the_colours_of_the_legend():
    label = np.zeros((1, 64, 96), int)
    label[0, 20:40, 30:50] = 2
    image = np.zeros((1, 64, 96))
    image[0, 10:54, 20:80] = 0.5
    nothing = label * 0
    made = pictures.overlay_rows(
        image, label, {"FP32": label, "ort": nothing}, ["air", "spleen", "liver"], tile_pixels=120
    )
    assert made["columns"] == ["image", "label", "FP32", "ort"]
    assert made["legend"] == [{"name": "liver", "colour": "#56B4E9"}]
    (row,) = made["rows"]
    assert row["title"] == "slice 0"
    plain, truth, same, empty = (decode(tile) for tile in row["tiles"])
    # the body is 44 x 60 pixels, with 2 around it; what lies over it is twice as large
    assert plain.shape == (48, 64) and row["size"] == (64, 48)
    assert truth.shape == same.shape == empty.shape == (96, 128, 4)
    middle = (2 * (30 - 8), 2 * (40 - 18))
    assert truth[middle][2] > truth[middle][0] and truth[middle][3]  # the liver's light blue
    np.testing.assert_array_equal(truth[middle], same[middle])
    assert empty[middle][3] == 0  # the image is seen through it
    corner = (2 * (20 - 8), 2 * (30 - 18))
    assert empty[corner].min() > 200  # the label's outline is white, also where nothing was found
    assert truth[corner].min() < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 8))}, r"images have shape \(2, 8\); expected \(n, H, W\)"),
        (
            {"label": np.zeros((1, 8, 9), int)},
            r"label has shape \(1, 8, 9\), expected the images' \(1, 8, 8\)",
        ),
        (
            {"predictions": {"ort": np.full((1, 8, 8), 2)}},
            "ort has classes 2 to 2; there are names for 0 to 1",
        ),
        ({"titles": ["a", "b"]}, "2 titles for 1 slices; give one each"),
    ],
)
def test_pictures_of_wrong_arrays(change, message):
    arguments = {
        "images": np.zeros((1, 8, 8)),
        "label": np.zeros((1, 8, 8), int),
        "predictions": {},
        "class_names": ["background", "liver"],
    }
    with pytest.raises(UserError, match=f"^pictures: {message}$"):
        pictures.overlay_rows(**arguments | change)


def test_slices_without_organs_make_no_section():
    empty = np.zeros((2, 8, 8), int)
    none = pictures.overlay_rows(empty, empty, {}, ["background"])
    assert none["rows"] == []
    assert "Where INT8 differs from FP32" not in render.html(sample(), none)


def test_the_palette_is_told_apart_with_each_kind_of_colour_vision():
    """Machado et al. 2009's matrices at full severity, distance in CIE L*a*b* of at least 15."""
    normal = np.eye(3)
    deutan = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    )  # fmt: skip
    protan = np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    )  # fmt: skip
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )

    def lab(colour, vision):
        code = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
        xyz = to_xyz @ np.clip(vision @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    assert len(set(pictures.PALETTE)) == 8
    for vision in (normal, deutan, protan):
        seen = np.array([lab(colour, vision) for colour in pictures.PALETTE])
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert distance[~np.eye(8, dtype=bool)].min() >= 15
