"""The tags of one DICOM file, read by pydicom, and what goes wrong with damaged ones."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.packages import install_with_its_kind

DEFLATED = "1.2.840.10008.1.2.1.99"
DEFERRED_BYTES = 16_384
"""Elements above this, the pixels above all, are left in the file until they are asked for."""


@dataclass(frozen=True, eq=False)
class Header:
    """The tags of one file.

    Args:
        path: the file.
        dataset: pydicom's; its pixels are read from the file when they are asked for.
    """

    path: Path
    dataset: Any = field(repr=False)

    def text(self, keyword: str) -> str:
        """Return a tag as text, empty where it is missing.

        Raises:
            UserError: where its bytes are no value, which pydicom finds when it is asked for it.
        """
        try:
            with quiet():
                value = self.dataset.get(keyword)
        except Exception as error:
            raise UserError(damaged(self.path, error)) from error
        return "" if value is None else printable(str(value)).strip()

    def integer(self, keyword: str) -> int | None:
        """Return a tag as a whole number, None where it is missing; raise UserError for others."""
        text = self.text(keyword)
        try:
            return int(text) if text else None
        except ValueError as error:
            raise UserError(
                f"{self.path}: {keyword} is {text}; expected a whole number; get the file again"
            ) from error


def read_header(path: Path) -> Header:
    """Return the tags of one DICOM file.

    Raises:
        UserError: where they cannot be read to their end.
    """
    pydicom = needed_package("pydicom", "to read DICOM files")
    try:
        with quiet():
            dataset = pydicom.dcmread(path, defer_size=DEFERRED_BYTES, force=True)
            if str(dataset.file_meta.get("TransferSyntaxUID", "")) == DEFLATED:
                # what is deflated has no places in the file that could be read later
                dataset = pydicom.dcmread(path, force=True)
            elif not _complete(dataset, path):
                raise EOFError("the file ends within an element")
            # some anonymisers empty what the file's own header still says
            for keyword in ("SOPClassUID", "SOPInstanceUID"):
                if not dataset.get(keyword):
                    value = dataset.file_meta.get(f"MediaStorage{keyword}")
                    setattr(dataset, keyword, value or "")
            if len(dataset) < 3 or not dataset.SOPClassUID:
                raise EOFError("no SOPClassUID")
    except Exception as error:  # a damaged header makes pydicom raise anything
        raise UserError(damaged(path, error)) from error
    return Header(path, dataset)


def needed_package(name: str, why: str) -> Any:
    """Return a package by name; raise ToolNotFound where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        fix = f"install it: {install_with_its_kind(name)}"
        raise ToolNotFound(name, why, fix) from error


def damaged(path: Path | str, error: Exception | str) -> str:
    """Return the message on a file that cannot be read."""
    text = printable(str(error)).strip() or type(error).__name__
    return f"{path} is damaged or no DICOM image ({text}); get the file again, or move it away"


def printable(text: str) -> str:
    """Return a text in one line, as a message holds it, whatever bytes it was made of."""
    return "".join(c if c.isprintable() else " " for c in text)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings off the terminal; what matters is raised."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def _complete(dataset: Any, path: Path) -> bool:
    """Tell whether every element that was read, or left for later, lies within the file."""
    size = path.stat().st_size
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag, keep_deferred=True)
        length = getattr(element, "length", None)
        tell = getattr(element, "value_tell", None)
        if length is None or tell is None or length == 0xFFFFFFFF:
            continue
        if tell + length > size:
            return False
    return True
