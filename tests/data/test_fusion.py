"""Several images of a patient on one grid: resampled, registered, or one of them missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK

from lmaunet.data import modalities
from lmaunet.data import phantom_modalities as phantom
from lmaunet.data.fusion import MOST_UNCOVERED, Fusion, fuse
from lmaunet.data.images import common_grid, registration
from lmaunet.data.images.geometry import corners
from lmaunet.data.images.held import image_of_sitk
from lmaunet.data.modalities import Modalities
from lmaunet.errors import UserError

CORNER_ERROR_MM = 2.0
"""Of a registration, at the corners of a volume of 144x190x160 mm, for two contrasts at 2.4 mm."""
FIRST = phantom.Grid((36, 56, 48), (4.0, 3.4, 3.4))
SECOND = phantom.Grid((30, 60, 52), (5.0, 3.2, 3.2), (6, 4, -5))


def head(seed, contrast, grid, motion=None):
    drawn = phantom.draw(
        phantom.head(seed), phantom.HEAD[contrast], grid, seed=seed + 7, motion=motion
    )
    return grid.image(drawn[0])


def motion_of(seed):
    rng = np.random.default_rng(seed)
    return phantom.Motion(tuple(rng.uniform(-7, 7, 3)), tuple(rng.uniform(-12, 12, 3)))


def corner_error_mm(image, found, wanted):
    points = [
        image.TransformIndexToPhysicalPoint([int(v) for v in index])
        for index in corners(image.GetSize())
    ]
    return max(math.dist(found.TransformPoint(p), wanted.TransformPoint(p)) for p in points)


def registered(module, fixed, moving):
    return module.register(fixed, moving, "mr", "ct", lambda line: None)


@pytest.fixture(scope="module")
def pair():
    """T1, FLAIR of the same head elsewhere, and where it is."""
    motion = motion_of(3)
    return head(3, "t1", FIRST), head(3, "flair", SECOND, motion), motion.transform()


@pytest.fixture(scope="module")
def done(pair):
    return registered(registration, *pair[:2])


def test_a_known_misplacement_is_found(pair, done):
    fixed, moving, wanted = pair
    assert corner_error_mm(fixed, done.transform, wanted) < CORNER_ERROR_MM
    assert corner_error_mm(fixed, wanted, SimpleITK.Euler3DTransform()) > 5 * CORNER_ERROR_MM
    assert done.after > done.before and done.fall > registration.LEAST_FALL and done.mirrored < 0.8
    # what is then resampled is what the first grid shows of the patient
    truth = phantom.draw(phantom.head(3), phantom.HEAD["flair"], FIRST, seed=9)[0]
    array, uncovered = common_grid.resample(moving, fixed, done.transform)
    lying, _ = common_grid.resample(moving, fixed)
    inside = (truth > 0) & (array > 0)
    apart, before = (np.abs(a - truth)[inside].mean() for a in (array, lying))
    assert apart < 0.5 * before and uncovered < 0.2


@pytest.mark.slow
def test_over_seeds_a_registration_is_right_or_refused():
    errors = []
    for seed in range(6):
        motion = motion_of(seed + 20)
        fixed, moving = head(seed, "t1ce", FIRST), head(seed, "t2", SECOND, motion)
        try:
            found = registered(registration, fixed, moving).transform
        except UserError as error:
            assert "so that none can be trusted" in str(error)
            continue
        errors.append(corner_error_mm(fixed, found, motion.transform()))
    assert len(errors) >= 3 and max(errors) < CORNER_ERROR_MM


def test_it_repeats_to_the_bit(pair, done):
    levels = registration._shrunk(pair[0], 5.0), registration._shrunk(pair[1], 5.0)
    start = registration._turn((0, 0, 0))
    ends = [registration._climb(levels, start, 5.0, 2000, "a", "b") for _ in range(2)]
    assert ends[0].GetParameters() == ends[1].GetParameters()


def test_a_resampling_with_the_inverse_is_noticed(pair, done, mutant_of):
    fixed, moving, _ = pair
    wrong = mutant_of(
        common_grid, "if transform is None else transform", "if transform is None else "
        "transform.GetInverse()",
    )  # fmt: skip
    right, _ = common_grid.resample(moving, fixed, done.transform)
    mutant, _ = wrong.resample(moving, fixed, done.transform)
    truth = phantom.draw(phantom.head(3), phantom.HEAD["flair"], FIRST, seed=9)[0]
    errors = [np.abs(a - truth)[truth > 0].mean() for a in (right, mutant)]
    assert errors[1] > 2 * errors[0]


def noise(grid, seed, smooth_mm=0.0):
    made = grid.image(np.random.default_rng(seed).normal(300, 90, grid.shape).astype(np.float32))
    return SimpleITK.SmoothingRecursiveGaussian(made, smooth_mm) if smooth_mm else made


def mirrored(image):
    turned = SimpleITK.Flip(image, [True, False, False])
    turned.CopyInformation(image)
    return turned


def test_an_end_that_fits_as_well_elsewhere_makes_the_best_one_doubtful(pair, done, monkeypatch):
    """Two starts meet, and a third one ends far from them with as much mutual information."""
    meeting = registration._meeting
    monkeypatch.setattr(registration, "_meeting", lambda *given: (*meeting(*given)[:2], 0.999))
    with pytest.raises(UserError, match=r"fits as well at another place, .* \(0.999 of the best"):
        registered(registration, *pair[:2])


def far_from(image):
    moved = SimpleITK.Image(image)
    moved.SetOrigin([place + 900 for place in image.GetOrigin()])
    return moved


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("noise", "shares nothing with ct within their bodies"),
        ("flat", "mr can't be registered: every voxel is 7"),
        ("slice", "has 52x60x1 voxels; a registration needs 8 or more along each axis"),
        pytest.param(
            "mirrored", "better mirrored left to right|mm apart from several starts|as well beside",
            marks=pytest.mark.slow,
        ),
        ("far", "do not overlap"),
    ],
)  # fmt: skip
def test_what_cannot_be_registered_is_refused(pair, case, text):
    fixed, moving, _ = pair
    other = {
        "noise": lambda: noise(SECOND, 1),
        "flat": lambda: SECOND.image(np.full(SECOND.shape, 7, np.float32)),
        "slice": lambda: moving[:, :, 9:10],
        "mirrored": lambda: mirrored(moving),
        "far": lambda: far_from(moving),
    }[case]()
    with pytest.raises(UserError, match=text):
        registered(registration, fixed, other)


@pytest.mark.slow
def test_smooth_noise_and_another_part_of_the_body_are_refused(pair):
    fixed = pair[0]
    grid = phantom.Grid((40, 70, 80), (6.0, 4.4, 4.4))
    abdomen = grid.image(
        phantom.draw(phantom.abdomen(2), phantom.ABDOMEN["MR"], grid, seed=2, background=8.0)[0]
    )
    for other in (noise(SECOND, 2, 12.0), abdomen):
        with pytest.raises(UserError, match=r"the registration|shares nothing|fits|overlap"):
            registered(registration, fixed, other)


@pytest.mark.parametrize(
    ("right", "wrong", "case"),
    [
        ("if mirrored > MIRRORED:", "if False:", "mirrored"),
        ("if judge(end)[1] < LEAST_INFORMATION:", "if False:", "noise"),
    ],
)
@pytest.mark.slow
def test_the_check_is_what_notices(pair, mutant_of, right, wrong, case):
    """Without it the wrong registration is passed, or refused by another check with its words."""
    words = {"mirrored": "better mirrored", "noise": "shares nothing"}[case]
    mutant = mutant_of(registration, right, wrong)
    other = mirrored(pair[1]) if case == "mirrored" else noise(SECOND, 1)
    try:
        registered(mutant, pair[0], other)
    except UserError as error:
        assert words not in str(error)


# --- resampling by where images lie


def ramp(shape, spacing, origin, direction=None):
    """An image whose values are its voxels' places in mm: x + 2 y + 4 z."""
    made = SimpleITK.Image(shape[::-1], SimpleITK.sitkFloat32)
    made.SetSpacing(spacing[::-1])
    made.SetOrigin(origin)
    if direction is not None:
        made.SetDirection(direction)
    z, y, x = np.meshgrid(*map(np.arange, shape), indexing="ij")
    matrix = np.reshape(made.GetDirection(), (3, 3)) * np.array(made.GetSpacing())
    place = np.stack([x, y, z], -1) @ matrix.T + np.array(origin)
    filled = SimpleITK.GetImageFromArray((place @ [1.0, 2.0, 4.0]).astype(np.float32))
    filled.CopyInformation(made)
    return filled


TURNED = (math.cos(0.3), -math.sin(0.3), 0.0, math.sin(0.3), math.cos(0.3), 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("direction", [None, TURNED, (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
def test_values_stay_at_their_places(direction, mutant_of):
    first = ramp((9, 20, 22), (5.0, 2.0, 2.0), (-20.0, -18.0, 30.0))
    turned = direction is not None and direction[0] < 0
    second = ramp((20, 60, 60), (3.0, 1.5, 1.5), (45.0, 48.0, 25.0) if turned else
                  (-40.0, -50.0, 25.0), direction)  # fmt: skip
    images = [image_of_sitk(image, "x") for image in (first, second)]
    fused, records = fuse(images, ["a", "b"], Fusion("resample"))
    assert fused[1].geometry is fused[0].geometry
    covered = fused[1].array > fused[1].array.min() + 20
    assert covered.mean() > 0.7
    np.testing.assert_allclose(fused[1].array[covered], fused[0].array[covered], atol=1e-3)
    assert records[0] == {"image": "a", "how": "as it is"} and records[1]["how"] == "resampled"
    # an image whose axes are not looked at lies elsewhere
    if direction is None:
        return
    wrong = mutant_of(common_grid, "    image.SetDirection(geometry.direction)\n", "")
    array, _ = wrong.resample(
        wrong.sitk_of(images[1].array, images[1].geometry),
        wrong.sitk_of(images[0].array, images[0].geometry),
    )
    same = not turned  # a turn by half a circle is undone when an image is read
    assert np.allclose(array[covered], fused[0].array[covered], atol=1e-3) != same


def test_what_is_not_covered_is_said_and_beyond_a_share_refused():
    first = ramp((10, 20, 20), (4.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    images = [image_of_sitk(first, "x")]
    for slices, share in ((9, 0.1), (8, 0.2), (7, 0.3)):
        second = image_of_sitk(first[:, :, :slices], "y")
        if share > MOST_UNCOVERED:
            with pytest.raises(UserError, match=r"mr leaves out 30% of the volume of ct.*most 25%"):
                fuse([*images, second], ["ct", "mr"], Fusion("resample"))
            continue
        fused, records = fuse([*images, second], ["ct", "mr"], Fusion("resample"))
        assert records[1]["uncovered"] == pytest.approx(share)
        assert f"{100 * share:.1f}% of the volume of ct lies outside" in fused[1].notes[0]
        assert (fused[1].array[slices:] == second.array.min()).all()
    apart = ramp((10, 20, 20), (4.0, 2.0, 2.0), (0.0, 0.0, 500.0))
    with pytest.raises(UserError, match="leaves out 100%"):
        fuse([*images, image_of_sitk(apart, "y")], ["ct", "mr"], Fusion("resample"))


def test_without_an_option_another_grid_is_refused_and_the_options_are_named():
    first, second = (
        image_of_sitk(ramp(shape, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)), "x")
        for shape in ((9, 9, 9), (9, 9, 10))
    )
    with pytest.raises(
        UserError, match=r"mr lies on another grid than ct.*--fuse resample.*regist"
    ):
        fuse([first, second], ["ct", "mr"], Fusion())
    assert fuse([first, first], ["ct", "mr"], Fusion())[0][1] is first


# --- what is missing


def test_drops_are_seeded_and_leave_one():
    draws = [modalities.dropped(4000, 3, 0.4, np.random.default_rng([7, 2])) for _ in range(2)]
    assert (draws[0] == draws[1]).all() and not draws[0].all(1).any()
    kept = 1 - 0.4**3
    # all three lost happens with 0.064, and each then stays with a third
    expected = 0.4 - 0.4**3 / 3
    assert draws[0].mean() == pytest.approx(expected, abs=0.02) and kept > expected
    assert modalities.dropped(50, 1, 0.9, np.random.default_rng(0)).sum() == 0


def test_what_is_missing_is_zero_in_what_the_network_gets():
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = modalities.without(images, (1,))
    assert (found[:, 1] == 0).all() and (found[:, [0, 2]] == images[:, [0, 2]]).all()
    assert modalities.without(images, ()) is images and images[:, 1].any()


def test_a_record_is_read_as_it_was_written():
    known = Modalities(("T1", "T2"), 0.2, 0.8, (0.7, None))
    assert Modalities.from_json(known.to_json(), 2) == known
    assert Modalities.from_json(None, 2) is None
    assert "Dice was 70.0% without it and 80.0% with all" in known.costs((0,))
    assert "not known" in known.costs((1,)) and "not measured" in known.costs((0, 1))
    for change in (
        {"drop": 2}, {"absent": 1.0}, {"names": ["a"]}, {"names": "ab"},
        {"dice": {"all": 2.0, "missing": [0, 0]}}, {"dice": {"all": 0.5, "missing": [0.1]}},
    ):  # fmt: skip
        with pytest.raises((UserError, ValueError, TypeError)):
            Modalities.from_json({**known.to_json(), **change}, 2)


@pytest.mark.parametrize(
    ("absent", "known", "text"),
    [
        ((2,), True, "give numbers of 1 to 2"), ((-1,), True, "give numbers of 1 to 2"),
        ((0, 0), True, "each once"), ((0, 1), True, "every image is missing"),
        ((0,), False, "not trained for that.*--drop-modality"),
    ],
)  # fmt: skip
def test_what_cannot_be_missing(absent, known, text):
    record = Modalities(("a", "b"), 0.2) if known else None
    with pytest.raises(UserError, match=text):
        modalities.check_missing(absent, 2, record, "net")


@pytest.mark.parametrize("value", [-0.1, 0.95, float("nan"), "x", True, None])
def test_a_probability_of_dropping(value):
    with pytest.raises(UserError, match=r"expected a probability of 0 to 0\.9"):
        modalities.check_drop(value)
    assert modalities.check_drop(0.2, 4) == 0.2 and modalities.check_drop(0, 1) == 0
    with pytest.raises(UserError, match="network of one channel"):
        modalities.check_drop(0.2, 1)


def test_networks_whose_training_leaves_nothing_out():
    from lmaunet.spec import named_spec

    plain = named_spec("edge")
    modalities.check_droppable(plain, 0.2)
    modalities.check_droppable(plain, None)
    with pytest.raises(UserError, match="a network of volumes"):
        modalities.check_droppable(named_spec("edge3d"), 0.2)
