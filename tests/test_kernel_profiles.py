import math

import pytest

from lmaunet.errors import UserError
from lmaunet.kernel_profiles import (
    KernelProfiles,
    elastic_spec,
    one_kernel,
    profile_size,
    profile_spec,
    read_kernel,
    reference_kernel,
)
from lmaunet.spec import named_spec


def test_the_middle_kernel_is_the_reference():
    assert [reference_kernel(k) for k in ((5, 7, 9), (5, 7), (9, 3, 7, 5))] == [7, 5, 5]


@pytest.mark.parametrize(
    ("side", "sizes"), [(128, (96, 128, 160)), (256, (176, 256, 336)), (64, (48, 64, 80))]
)
def test_a_profile_sees_the_same_field_of_view_in_its_share_of_the_pixels(side, sizes):
    spec = elastic_spec(named_spec("edge")).replace(input_size=(side, side))
    assert spec.elastic == (5, 7, 9) and spec.kernels == (9, 9, 9, 9)
    assert tuple(profile_size(spec, k)[0] for k in spec.elastic) == sizes
    small = profile_spec(spec, 5)
    assert small.kernels == (5, 5, 5, 5) and small.elastic == ()
    assert small.input_size == (sizes[0],) * 2 and elastic_spec(spec) == spec


def test_kernels_by_pixels_and_their_thresholds():
    profiles = KernelProfiles.of((9, 5, 7), 7, (128, 128), None)
    assert profiles.up_to == {5: pytest.approx(128 * 6 / 7), 7: pytest.approx(128 * 8 / 7)}
    chosen = {n: profiles.choose((n, 40), (1.0, 1.0)).kernel for n in (96, 109, 110, 146, 147, 512)}
    assert chosen == {96: 5, 109: 5, 110: 7, 146: 7, 147: 9, 512: 9}
    why = profiles.choose((224, 180), (1.0, 1.0)).why
    assert why == "slices of 224x180; 5 up to 110 pixels, 7 up to 146 pixels, 9 above"


def test_kernels_by_spacing_where_slices_are_resampled():
    profiles = KernelProfiles.of((5, 7, 9), 7, (256, 256), (1.4, 1.4))
    # half the spacing: twice the pixels across the same field of view, whatever the slice's shape
    assert profiles.pixels((512, 512), (0.7, 0.7)) == pytest.approx(512)
    assert profiles.pixels((90, 90), (0.7, 2.8)) == pytest.approx(256)
    chosen = {mm: profiles.choose((512, 512), (mm, mm)).kernel for mm in (0.7, 1.2, 1.3, 1.6, 1.7)}
    assert chosen == {0.7: 9, 1.2: 9, 1.3: 7, 1.6: 7, 1.7: 5}
    assert "at 0.7x0.7 mm 512 pixels span the field of view" in (
        profiles.choose((512, 512), (0.7, 0.7)).why
    )


def test_profiles_go_through_json():
    profiles = KernelProfiles.of((5, 7, 9), 7, (128, 128), (2.0, 2.0))
    assert KernelProfiles.from_json(profiles.to_json(), (128, 128), (2.0, 2.0)) == profiles


@pytest.mark.parametrize(
    "change",
    [
        {"reference": 3}, {"reference": "7"}, {"up_to_pixels": {}}, {"up_to_pixels": {"7": None}},
        {"up_to_pixels": {"5": 10.0, "7": None, "9": 20.0}}, {"up_to_pixels": None},
        {"up_to_pixels": {"5": 30.0, "7": 20.0, "9": None}},
        {"up_to_pixels": {"5": math.nan, "7": 20.0, "9": None}},
        {"up_to_pixels": {"5": "10", "7": 20.0, "9": None}}, {"up_to_pixels": {"x": None}},
    ],
)  # fmt: skip
def test_damaged_profiles_are_refused(change):
    content = KernelProfiles.of((5, 7, 9), 7, (128, 128), None).to_json()
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        KernelProfiles.from_json({**content, **change}, (128, 128), None)


def test_what_kernel_takes():
    assert read_kernel("auto") is None and read_kernel("7") == 7 == one_kernel("7")
    for text in ("8", "", "seven", "-7", "7.0", "11"):
        with pytest.raises(UserError, match="give auto, or a kernel such as 5, 7 or 9"):
            read_kernel(text)
    with pytest.raises(UserError, match="a design has one kernel, which no image can choose"):
        one_kernel("auto")
