"""The judge of masks: right ones pass, and each way of being wrong is seen."""

import gzip

import nibabel
import numpy as np
import pytest
import robustness_checkpoints as checkpoints
import robustness_dicom as dicom
import robustness_dicom_reader as dicom_reader
import robustness_enhanced as enhanced
import robustness_headers as headers
import robustness_images as images
import robustness_network as network
import robustness_oracle as oracle
import robustness_process as process
import robustness_readers as readers
import SimpleITK
import torch

SPACING = np.array([2.0, 2.5, 4.0])


def write_image(path, seed=0, turn=None, codes=(1, 1), sform=None):
    """A NIfTI file whose slices go through the network as they are; its HU and affine."""
    rng = np.random.default_rng(seed)
    array = images.abdomen(rng)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.diag([*SPACING, 1.0])
    affine[:3, 3] = 30.0, -20.0, 7.5
    if turn is not None:
        turn = np.array(turn, float)
        affine = affine @ nibabel.orientations.inv_ornt_aff(turn, array.shape)
        array = nibabel.orientations.apply_orientation(array, turn)
    image = nibabel.Nifti1Image(array.astype(np.int16), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine if sform is None else sform @ affine, codes[1])
    nibabel.save(image, path)
    return array, affine


def right_labels(array, affine):
    (turn,) = network.orientations(affine)
    return network.turned_back(network.expected_labels(network.turned(array, turn)), turn)


def write_mask(path, labels, image_path, change=lambda image: None):
    source = nibabel.load(image_path)
    mask = nibabel.Nifti1Image(labels.astype(np.uint8), None, source.header)
    mask.set_data_dtype(np.uint8)
    change(mask)
    nibabel.save(mask, path)
    return path


def judge(tmp_path, said=""):
    return oracle.judge_mask(
        tmp_path / "image.nii.gz", tmp_path / "mask.nii", tmp_path / "none", said, tmp_path / "j"
    )


def test_the_network_is_what_the_judge_takes_it_for(tmp_path):
    """In ONNX Runtime: the level of the pixel one row up and two columns to the left."""
    import onnxruntime

    array = images.abdomen(np.random.default_rng(1), (30, 24, 3))
    model = network.write_model(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    unit = np.clip((array - network.LOW_HU) / (network.HIGH_HU - network.LOW_HU), 0, 1)
    framed = np.zeros((3, 1, network.SIDE, network.SIDE), np.float32)
    framed[:, 0, 20:44, 17:47] = unit.transpose(2, 1, 0)
    framed = ((framed - network.MEAN) / network.STD).astype(np.float32)
    logits = np.concatenate([session.run(None, {"image": each[None]})[0] for each in framed])
    got = logits.argmax(1)[:, 20:44, 17:47].transpose(2, 1, 0)
    expected = network.expected_labels(array)
    assert np.array_equal(got, expected) and len(np.unique(expected)) >= 8


@pytest.mark.parametrize(
    "turn",
    [None, [[1, -1], [0, 1], [2, -1]], [[2, 1], [0, -1], [1, 1]], [[1, 1], [2, -1], [0, -1]]],
)
def test_a_right_mask_is_right_in_any_orientation(tmp_path, turn):
    array, affine = write_image(tmp_path / "image.nii.gz", turn=turn)
    write_mask(tmp_path / "mask.nii", right_labels(array, affine), tmp_path / "image.nii.gz")
    assert judge(tmp_path) == oracle.Verdict()


WRONG_LABELS = {
    "mirrored": lambda right: right[::-1],
    "of the slice beside": lambda right: np.roll(right, 1, 2),
    "one column off": lambda right: np.roll(right, 1, 0),
    "one voxel": lambda right: np.where(
        np.arange(right.size).reshape(right.shape) == 900, 11, right
    ),
    "empty": np.zeros_like,
}


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_a_mask_of_other_voxels_is_wrong(tmp_path, name):
    array, affine = write_image(tmp_path / "image.nii.gz")
    labels = WRONG_LABELS[name](right_labels(array, affine))
    write_mask(tmp_path / "mask.nii", labels, tmp_path / "image.nii.gz")
    assert "computed from other voxels" in judge(tmp_path).wrong[0]


def test_slices_that_were_turned_before_the_network_are_seen(tmp_path):
    """The mask of an image that was mirrored, mirrored back: nearly each voxel has its level."""
    array, affine = write_image(tmp_path / "image.nii.gz")
    (turn,) = network.orientations(affine)
    labels = network.expected_labels(network.turned(array[::-1], turn))
    write_mask(
        tmp_path / "mask.nii", network.turned_back(labels, turn)[::-1], tmp_path / "image.nii.gz"
    )
    assert "computed from other voxels" in judge(tmp_path).wrong[0]


def moved(get, put, step):
    def change(mask):
        affine = np.array(getattr(mask, get)())
        affine[:3, 3] += step
        getattr(mask, put)(affine, 1)

    return change


@pytest.mark.parametrize(
    ("change", "reader"),
    [
        (moved("get_sform", "set_sform", (0.2, 0, 0)), "sform first"),
        (moved("get_qform", "set_qform", (0, -0.2, 0)), "qform first"),
        (lambda mask: mask.set_sform(np.diag([-1, 1, 1, 1]) @ mask.get_sform(), 1), "sform first"),
        (lambda mask: mask.header.set_zooms((2.0, 2.5, 4.1)) or mask.set_qform(None, 1), "qform"),
    ],
)
def test_a_mask_that_lies_elsewhere_for_one_reader_is_wrong(tmp_path, change, reader):
    array, affine = write_image(tmp_path / "image.nii.gz")
    write_mask(
        tmp_path / "mask.nii", right_labels(array, affine), tmp_path / "image.nii.gz", change
    )
    (wrong,) = judge(tmp_path).wrong
    assert "mm off for a reader of" in wrong and reader in wrong


def test_forms_that_disagree_have_to_be_said(tmp_path):
    shift = np.eye(4)
    shift[0, 3] = 5.0
    array, affine = write_image(tmp_path / "image.nii.gz", sform=shift)
    write_mask(tmp_path / "mask.nii", right_labels(array, affine), tmp_path / "image.nii.gz")
    assert judge(tmp_path).wrong == ("sform and qform disagree, and nothing is said",)
    assert judge(tmp_path, "the network's orientation is the qform's") == oracle.Verdict()


def test_what_cannot_be_read_is_unverified_and_a_mask_that_cannot_is_wrong(tmp_path):
    array, affine = write_image(tmp_path / "image.nii.gz")
    (tmp_path / "mask.nii").write_bytes(b"no mask")
    assert "cannot be read" in judge(tmp_path).wrong[0]
    write_mask(tmp_path / "mask.nii", right_labels(array, affine), tmp_path / "image.nii.gz")
    content = gzip.decompress((tmp_path / "image.nii.gz").read_bytes())
    (tmp_path / "image.nii.gz").write_bytes(content[:-200])
    assert "refuses the image" in judge(tmp_path).unverified


@pytest.mark.parametrize("case", [headers.nrrd_case, headers.metaimage_case])
def test_own_readers_read_what_itk_reads(tmp_path, case):
    """Sound files of all orientations: the same voxels at the same places."""
    compared = 0
    for seed in range(40):
        (tmp_path / str(seed)).mkdir()
        path, _, sound = case(np.random.default_rng(seed), tmp_path / str(seed))
        if not sound:
            continue
        got, itk = readers.read(path), SimpleITK.ReadImage(str(path))
        assert np.array_equal(got.voxels, SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0))
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(itk.GetDirection(), (3, 3)) * itk.GetSpacing()
        affine[:3, 3] = itk.GetOrigin()
        (own,) = got.forms.values()
        assert np.allclose(own, readers.TO_RAS @ affine, rtol=0, atol=1e-4)
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("case", [dicom.dicom_case, enhanced.enhanced_case])
def test_frames_are_placed_by_their_own_tags(tmp_path, case):
    """Sound series: what is read is what the same random numbers drew."""
    compared = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        (tmp_path / str(seed)).mkdir()
        path, _, sound = case(rng, tmp_path / str(seed))
        if not sound:
            continue
        again = np.random.default_rng(seed)
        again.random()
        array, affine = dicom.grid(again)
        got = readers.read(path)
        (own,) = got.forms.values()
        if np.dot(own[:3, 2], (readers.TO_RAS @ affine)[:3, 2]) < 0:
            array = array[:, :, ::-1]
            affine = affine @ np.array(
                [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, array.shape[2] - 1], [0, 0, 0, 1]]
            )
        assert np.allclose(own, readers.TO_RAS @ affine, rtol=0, atol=1e-3)
        assert np.abs(got.voxels - array).max() <= 1.0  # a slope of 2 rounds
        compared += 1
    assert compared >= 3


def frames_along(places):
    """Frames of 5 x 4 voxels at places in mm along z."""
    return [
        dicom_reader.Frame(
            np.zeros((4, 5)), np.array([10.0, 20.0, z]), np.array([1.0, 0, 0]),
            np.array([0, 1.5, 0]), True,
        )
        for z in places
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("off", "start"),
    [(0.0, 0.0), (0.04, 0.0), (0.05, dicom_reader.Refused), (0.07, 0.035),
     (0.09, dicom_reader.Refused), (0.3, dicom_reader.NotABox)],
)  # fmt: skip
def test_frames_off_even_steps_are_read_where_they_are_nearest(off, start):
    """Steps of 5 mm, whose first and last frame are in line and whose others are off by as much."""
    frames = frames_along([0, 5 + off, 10 + off, 15 + off, 20])
    if isinstance(start, type):
        with pytest.raises(start):
            dicom_reader._stacked(frames)
        return
    (affine,) = dicom_reader._stacked(frames).forms.values()
    assert np.allclose(readers.TO_RAS @ affine, [
        [1, 0, 0, 10], [0, 1.5, 0, 20], [0, 0, 5, start], [0, 0, 0, 1]
    ], atol=1e-9)  # fmt: skip


CHANGED_SERIES = {
    "a gap": lambda rng, made: made.pop(1),
    "a slice twice": lambda rng, made: made.append(made[0]),
    "no position": lambda rng, made: made[1].__delattr__("ImagePositionPatient"),
    "another spacing": lambda rng, made: setattr(made[1], "PixelSpacing", ["2.0", "3.0"]),
    "another orientation": lambda rng, made: setattr(
        made[1], "ImageOrientationPatient", ["0.8", "0.6", "0", "-0.6", "0.8", "0"]
    ),
    "another size": lambda rng, made: dicom.set_pixels(made[1], np.zeros((9, 9)), False),
    "pixels missing": lambda rng, made: setattr(made[1], "PixelData", made[1].PixelData[:80]),
}


@pytest.mark.parametrize("name", CHANGED_SERIES)
def test_what_is_no_box_of_voxels_has_no_right_mask(tmp_path, name):
    rng = np.random.default_rng(2)
    made, _, _ = dicom.slices(rng)
    CHANGED_SERIES[name](rng, made)
    for index, data in enumerate(made):
        (tmp_path / f"{index}.dcm").write_bytes(dicom.saved(data))
    with pytest.raises(readers.NotABox):
        readers.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "right"),
    [
        (lambda taken: None, True),
        (lambda taken: taken["norm.weight"].add_(1), False),
        (lambda taken: taken.pop("norm.weight"), False),
        (lambda taken: taken.update(more=torch.ones(2)), False),
        (lambda taken: taken.update({"norm.num_batches_tracked": torch.tensor(0)}), True),
    ],
)
def test_weights_are_right_where_they_are_those_of_the_file(tmp_path, change, right):
    """A count that no norm uses may be added; nothing else, and nothing may be missing."""
    state = {"norm.weight": torch.arange(3.0), "conv.weight": torch.ones(2, 2)}
    taken = {name: value.clone() for name, value in state.items()}
    change(taken)
    torch.save(taken, tmp_path / "taken.pt")
    made = checkpoints.Made(None, state, [state])
    verdict = checkpoints.judge(
        tmp_path / "taken.pt", made, process.Outcome(0, None, 0, False, "", "")
    )
    assert (verdict == oracle.Verdict()) is right
    assert right or "other weights were taken" in verdict.wrong[0]
