"""What is kept of an image is kept as it was made; what holds pixels or tags is itself only."""

from __future__ import annotations

import copy
import dataclasses

import pytest

from lmaunet.data.dicom.codes import SegmentCode
from lmaunet.data.dicom.frames import Frame, _Macros
from lmaunet.data.dicom.geometry import Box
from lmaunet.data.dicom.header import Header
from lmaunet.data.dicom.series import DicomImage
from lmaunet.data.images.geometry import FileGrid, Geometry
from lmaunet.data.images.image_file import FileHead
from lmaunet.data.images.nifti import Placement
from lmaunet.data.images.volumes import Image

BY_VALUE = [FileGrid, Geometry, FileHead, Box, Frame, SegmentCode, _Macros]
ITSELF = [Image, Placement, Header, DicomImage]


@pytest.mark.parametrize("kind", [*BY_VALUE, *ITSELF])
def test_a_record_stays_as_it_was_made(kind):
    names = [field.name for field in dataclasses.fields(kind)]
    record = kind(*names)
    assert [getattr(record, name) for name in names] == names
    for name in names:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, 1)
    assert (record == copy.copy(record)) == (kind in BY_VALUE) and hash(record) == hash(record)


def test_a_code_has_a_side_only_where_it_is_given():
    assert SegmentCode("category", "type") == SegmentCode("category", "type", None)
