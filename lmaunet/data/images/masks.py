"""Writing a mask onto its image: checked before, written beside, read back, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import platform
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.images.geometry import (
    GRID_TOLERANCE_MM,
    FileGrid,
    Geometry,
    farthest_mm,
    in_file_axes,
)
from lmaunet.data.images.image_file import HEAD_BYTES, check_name, identify
from lmaunet.data.images.nifti import FORMS_TOLERANCE_MM
from lmaunet.data.images.nifti_mask import WRITTEN_TOLERANCE_MM
from lmaunet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

LABEL_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
SEGMENTATION_SUFFIX = ".dcm"
OUTPUT_SUFFIXES = (*LABEL_SUFFIXES, SEGMENTATION_SUFFIX)
SEGMENTATION_CLASS = b"1.2.840.10008.5.1.4.1.1.66.4"  # SOP class of DICOM SEG
FILES_LOOKED_AT = 20
HIGHEST_LABEL = 65535
STALE_SECONDS = 86400
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_PARTIAL = re.compile(r"\.lmaunet-partial-([0-9a-f]{8})-(\d+)\.")


def suffix_of(path: Path) -> str:
    """Return the suffix that chooses a mask's format; raises UserError for another."""
    for suffix in OUTPUT_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UserError(f"{path}: unknown format; use {', '.join(OUTPUT_SUFFIXES)}")


def check_output(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise :class:`UserError` where a mask cannot be written to a path, before it is made.

    Args:
        path: the file; its suffix chooses the format.
        inputs: the images, which it must not overwrite or lie in.
    """
    check_name(path)
    suffix_of(path)
    try:
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path} is a link to nothing; name a file")
        if path.exists():
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                raise UserError(f"{path} is a folder; name a file")
            if not stat.S_ISREG(mode):
                raise UserError(f"{path} is a device or a pipe; name a file")
        for image in inputs:
            _keep(path, image)
        folder = next(p for p in (path.absolute().parent, *path.absolute().parents) if p.exists())
        if not folder.is_dir():
            raise UserError(
                f"{path} cannot be written: {folder} is not a folder; name another place"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(
                f"{path} cannot be written: no permission in {folder}; name another place"
            )
        if folder == path.absolute().parent:
            _refuse_series(path, folder)
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        raise UserError(
            f"{path} cannot be written: {_reason(error)}; name another place"
        ) from error


def _keep(path: Path, image: Path) -> None:
    """Raise UserError where a mask would overwrite an image, or lie in its folder of slices."""
    check_name(image)
    files = {image, _pixels_of(image)}
    same = path.exists() and any(file.exists() and path.samefile(file) for file in files)
    inside = image.is_dir() and path.absolute().parent.resolve() == image.resolve()
    # a file of the series may be a link to this one
    inside = inside or (image.is_dir() and _is_in(path, image))
    if same or inside:
        raise UserError(
            f"-o {path} would {'lie in' if inside else 'overwrite'} the image {image}; name "
            "another place"
        )


def _pixels_of(image: Path) -> Path:
    """Return the file that holds an image's pixels, which its header may only name."""
    if not image.is_file():
        return image  # a folder, or what the reader will refuse
    kind = identify(image).kind
    if kind == "NRRD":
        from lmaunet.data.images import nrrd

        return nrrd.data_file(image)
    if kind == "MetaImage":
        from lmaunet.data.images import metaimage

        return metaimage.data_file(image)
    return image


def _is_in(path: Path, folder: Path) -> bool:
    return path.exists() and any(path.samefile(p) for p in folder.iterdir() if p.is_file())


def _refuse_series(path: Path, folder: Path) -> None:
    """Raise UserError where a folder holds DICOM images: nothing is added to a series."""
    for file in itertools.islice(sorted(folder.iterdir()), FILES_LOOKED_AT):
        if not file.is_file():
            continue
        with file.open("rb") as stream:
            start = stream.read(HEAD_BYTES)
        if start[128:132] == b"DICM" and SEGMENTATION_CLASS not in start:
            raise UserError(
                f"-o {path} would lie in {folder}, which holds a DICOM image ({file.name}); name "
                "another place"
            )


def check_format(path: Path, geometry: Geometry, source: Any) -> tuple[str, ...]:
    """Check that a mask's format can hold the grid of its image, before the work; return notes.

    Args:
        path: the mask's.
        geometry: the image's.
        source: the image's DICOM series; None for other formats.

    Raises:
        UserError: where it cannot.
    """
    suffix = suffix_of(path)
    if suffix == SEGMENTATION_SUFFIX:
        from lmaunet.data.dicom.seg import check_segmentation_source

        return check_segmentation_source(source, path)
    apart_mm = 0.0 if geometry.placement is None else geometry.placement.forms_apart_mm
    if not suffix.startswith(".nii") and apart_mm > FORMS_TOLERANCE_MM:
        raise UserError(
            f"{path}: the image's qform and sform lie up to {apart_mm:.3g} mm apart, and {suffix} "
            "can hold one of them, so that some readers would lay the mask elsewhere; use .nii.gz, "
            "which carries both"
        )
    grid = geometry.grid
    if not suffix.startswith(".nii") and grid.stated:
        from lmaunet.data.images.nifti_mask import ras_affine, stated_affine

        turned_mm = farthest_mm(ras_affine(grid), stated_affine(grid), grid.size)
        if turned_mm > GRID_TOLERANCE_MM:
            raise UserError(
                f"{path}: the image's axes are a little off right angles, and a {suffix} mask has "
                f"right ones, which would lie up to {turned_mm:.2g} mm beside the image; use "
                ".nii.gz, which carries the axes as they are"
            )
    if suffix.startswith(".nii") and geometry.placement is None:
        import numpy as np

        from lmaunet.data.images.nifti import require_nibabel
        from lmaunet.data.images.nifti_mask import mask_header, off_mm

        require_nibabel()
        moved_mm = off_mm(mask_header(grid.size, np.dtype("u1"), grid, None), grid)
        if moved_mm > WRITTEN_TOLERANCE_MM:
            raise UserError(
                f"{path}: NIfTI cannot hold the image's grid (float32 moves voxels by "
                f"{moved_mm:.3g} mm); use .nrrd or .mha"
            )
    return ()


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> Path:
    """Write labels ``(z, y, x)`` in LPS to a file on the grid of the image that they belong to.

    Size, spacing, origin, direction and the number of dimensions are the image's; a NIfTI mask of
    a NIfTI image repeats its forms, codes, voxel sizes and units as they are. The file is read
    back before it takes its name: it is complete and right, or absent, and an old one stays.

    Args:
        path: the file; its suffix chooses the format.
        labels: integers of ``geometry.shape``, 0 to 65535.
        geometry: what :func:`lmaunet.data.images.volumes.read_image` returned for the image.

    Raises:
        UserError: for another shape or an unknown suffix, or where the file cannot be written.
    """
    import numpy as np

    if tuple(labels.shape) != geometry.shape:
        raise UserError(f"labels of shape {tuple(labels.shape)}; expected {geometry.shape}")
    check_output(path)
    suffix = suffix_of(path)
    if suffix == SEGMENTATION_SUFFIX:
        raise UserError(f"{path}: labels alone make no DICOM segmentation; use another suffix")
    highest = int(labels.max()) if labels.size else 0
    if highest > HIGHEST_LABEL or (labels.size and labels.min() < 0):
        raise UserError(f"labels from {labels.min()} to {highest}; expected 0 to {HIGHEST_LABEL}")
    # labels of more than 256 classes come in 16 bits, and stay so where none is that high
    wide = highest > 255 or labels.dtype == np.uint16
    return write_values(path, labels.astype(np.uint16 if wide else np.uint8), geometry)


def write_values(path: Path, values: np.ndarray, geometry: Geometry) -> Path:
    """Write uint8, uint16 or float32 ``(z, y, x)`` in LPS on the image's grid, and read it back."""
    turned, suffix = in_file_axes(values, geometry), suffix_of(path)
    if suffix.startswith(".nii"):
        from lmaunet.data.images import nifti_mask

        grid, placement = geometry.grid, geometry.placement
        if placement is not None and placement.axes == 2:
            turned = turned.reshape(turned.shape[-2:])
        content = nifti_mask.encode_mask(turned, grid, placement, gzipped=suffix.endswith(".gz"))
        return replace_file(
            path,
            lambda partial: _write_bytes(partial, content),
            lambda partial: nifti_mask.check_mask(partial, turned, grid, placement),
        )
    return replace_file(
        path,
        lambda partial: _write_by_itk(partial, turned, geometry.grid),
        lambda partial: _check_text_header(partial, turned, geometry.grid),
    )


def write_segmentation(
    path: Path,
    labels: np.ndarray,
    geometry: Geometry,
    source: Any,
    classes: Sequence[str],
    network: str,
) -> Path:
    """Write labels ``(z, y, x)`` in LPS as a DICOM segmentation of the series that they belong to.

    Args:
        path: the file.
        labels: indices of ``classes``, of ``geometry.shape``.
        geometry: the image's.
        source: the image's series.
        classes: names by index, the background first.
        network: the name of what computed them.

    Raises:
        UserError: where the file cannot be written, or holds something else when it is read back.
    """
    from lmaunet.data.dicom import seg as dicom_seg

    check_output(path)
    target = path.resolve() if path.is_symlink() else path
    dicom_seg.write_segmentation(target, in_file_axes(labels, geometry), source, classes, network)
    return path


def replace_file(
    path: Path, write: Callable[[Path], object], check: Callable[[Path], None]
) -> Path:
    """Write a file under a name of its own, check it, and give it its name.

    Args:
        path: the file; a link to one is followed.
        write: writes the file that it is given the path of.
        check: raises UserError where what was written is not what it should be.

    Raises:
        UserError: where the file cannot be written or is not right; the old one is left as it was,
            and nothing else stays.
    """
    target = path.resolve() if path.is_symlink() else path
    suffix = suffix_of(path)
    # a name of ours: ITK writes a.nii.gz.nii to another name than it is told
    partial = target.with_name(f".lmaunet-partial-{_HOST}-{os.getpid()}{suffix}")
    made = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
    done = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        write(partial)
        _sync(partial)
        check(partial)
        partial.replace(target)
        done = True
        _sync(target.parent)
    except (RuntimeError, OSError, MemoryError, UserError, ValueError) as error:
        if not done:
            full = isinstance(error, OSError) and error.errno in NO_ROOM
            remedy = "; free space there, or name another place" if full else ""
            raise UserError(f"cannot write {path}: {_reason(error)}{remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        for folder in made if not done else ():
            with contextlib.suppress(OSError):
                folder.rmdir()
    return path


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _remove_stale(folder: Path) -> None:
    """Remove what runs that were killed left half written in a folder."""
    for path in folder.glob(".lmaunet-partial-*"):
        match = _PARTIAL.match(path.name)
        with contextlib.suppress(OSError):
            if match and (
                (match[1] == _HOST and not _runs(int(match[2])))
                or time.time() - path.stat().st_mtime > STALE_SECONDS
            ):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return process != os.getpid()


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_bytes(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)


def _write_by_itk(path: Path, labels: np.ndarray, grid: FileGrid) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(labels)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    try:
        SimpleITK.WriteImage(image, str(path), useCompression=True)
    except RuntimeError:
        # ITK does not say that a disk is full; the system does
        _write_bytes(path, bytes(labels.nbytes))
        _sync(path)
        raise


def _check_text_header(path: Path, labels: np.ndarray, grid: FileGrid) -> None:
    """Read a NRRD or MetaImage mask without ITK, which wrote it, and compare."""
    import numpy as np

    from lmaunet.data.images.metaimage import read_metaimage
    from lmaunet.data.images.nifti_mask import ras_affine
    from lmaunet.data.images.nrrd import read_nrrd

    read = read_nrrd if identify(path).kind == "NRRD" else read_metaimage
    stored, of_mask, _ = read(path)
    if of_mask.size != grid.size or not np.array_equal(stored, labels):
        raise UserError("its labels differ when they are read back")
    off_mm = farthest_mm(ras_affine(of_mask), ras_affine(grid), grid.size)
    if off_mm > WRITTEN_TOLERANCE_MM:
        raise UserError(f"it lies {off_mm:.3g} mm off the image when it is read back")
