"""nnU-Net's ``dataset.json``, of version 1 and 2: names, channels, normalization, file ending."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.data.user_json import check_names, is_name, is_whole, read_user_json, shown
from lmaunet.errors import UserError

DATASET_FILE = "dataset.json"
CT = "ct"  # clipped to percentiles of the labelled voxels, which are known once images are read
NORMALIZATIONS: Mapping[str, Mapping[str, Any]] = {
    "nonorm": {"kind": "none"},
    "rescale_to_0_1": {"kind": "rescale"},
    "rgb_to_0_1": {"kind": "window", "low": 0.0, "high": 255.0},
}
# nnU-Net's for "zscore" and any name that it does not know
USUAL: Mapping[str, Any] = {"kind": "zscore_volume"}
LARGEST_CHANNEL = 63

_INDEX = re.compile(r"0|[1-9][0-9]{0,3}")


@dataclass(frozen=True)
class ListedCase:
    """A case whose files ``dataset.json`` itself lists, in the order of the channels."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class DatasetJson:
    """What ``dataset.json`` says.

    Args:
        classes: names, the background first.
        codes: class by label.
        channels: names, in the order of the network's channels.
        normalization: one for each channel, as in JSON; None where one is of CT.
        file_ending: of images and labels; None where it is not said.
        count: how many training cases it says that there are.
        listed: the cases whose files it names; None where the folders say it.
        name: that of the data set.
    """

    classes: tuple[str, ...]
    codes: Mapping[int, int]
    channels: tuple[str, ...]
    normalization: list[dict[str, Any]] | None
    file_ending: str | None = None
    count: int | None = None
    listed: tuple[ListedCase, ...] | None = None
    name: str | None = None


def read_dataset_json(path: Path) -> DatasetJson:
    """Read ``dataset.json``; raises :class:`UserError` where it is not of that form."""
    return parse_dataset_json(read_user_json(path), path)


def parse_dataset_json(content: Any, path: Path) -> DatasetJson:
    """Return what the content of a ``dataset.json`` says; ``path`` is for messages and files."""
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise UserError(
            f'{path} is no dataset.json of nnU-Net; expected {{"labels": {{"background": 0, '
            '"liver": 1}, "channel_names": {"0": "CT"}, ...}'
        )
    classes = _classes(content["labels"], str(path))
    channels = _channels(content, str(path))
    ending, count = content.get("file_ending"), content.get("numTraining")
    if ending is not None and not (is_name(ending) and ending.startswith(".")):
        raise UserError(f'{path}: file_ending {shown(ending)}; expected one such as ".nii.gz"')
    if count is not None and (not is_whole(count) or count < 0):
        raise UserError(f"{path}: numTraining {shown(count)}; expected a number of cases")
    name = content.get("name")
    return DatasetJson(
        classes,
        {index: index for index in range(len(classes))},
        channels,
        None if CT in map(str.casefold, channels) else [normalization_of(c) for c in channels],
        ending,
        count,
        _listed(content.get("dataset"), len(channels), path),
        " ".join(str(name).split()) if is_name(name) else None,
    )


def normalization_of(channel: str) -> dict[str, Any]:
    """Return what nnU-Net does to a channel of that name, CT aside."""
    return dict(NORMALIZATIONS.get(channel.casefold(), USUAL))


def _classes(labels: dict[str, Any], where: str) -> tuple[str, ...]:
    """Return names by label value; version 1 has the value as the key, version 2 as the value."""
    first = all(is_name(name) and _INDEX.fullmatch(value) for value, name in labels.items())
    pairs = (
        [(k, int(k), v) for k, v in labels.items()]
        if first
        else [(k, v, k) for k, v in labels.items()]
    )
    by_value: dict[int, str] = {}
    for key, value, name in pairs:
        if isinstance(value, list):
            raise UserError(
                f"{where}: label {shown(key)} is a region of several values ({shown(value)}); "
                "regions are not trained here, each pixel has one class; give a class map "
                "(--class-map FILE) that names the class of each value"
            )
        if name.strip().lower() == "ignore":
            raise UserError(
                f"{where}: there is an ignore label ({shown(value)}); pixels cannot be left out of "
                "training here; label them, or give a class map (--class-map FILE) that makes "
                "them background"
            )
        if not is_whole(value) or not 0 <= value <= 254 or not name.strip():
            raise UserError(
                f"{where}: label {shown(key)} is {shown(value)}; expected names with values of 0 "
                'to 254 such as {"background": 0, "liver": 1}'
            )
        if value in by_value:
            raise UserError(
                f"{where}: labels {shown(by_value[value])} and {shown(name)} both have the value "
                f"{value}; correct one"
            )
        by_value[value] = " ".join(name.split())
    lacking = sorted(set(range(len(by_value))) - by_value.keys())
    if lacking:
        raise UserError(
            f"{where}: no label has the value {lacking[0]}, but one has {max(by_value)}; expected "
            "consecutive values from 0, the background; renumber the labels, or give a class map "
            "(--class-map FILE), which maps any values"
        )
    classes = tuple(by_value[value] for value in range(len(by_value)))
    check_names(classes, where)
    return classes


def _channels(content: dict[str, Any], where: str) -> tuple[str, ...]:
    key = "channel_names" if "channel_names" in content else "modality"
    names = content.get(key, {"0": "image"})
    if not isinstance(names, dict) or not names:
        raise UserError(f'{where}: {key} {shown(names)}; expected such as {{"0": "CT"}}')
    by_index: dict[int, str] = {}
    for index, name in names.items():
        if not _INDEX.fullmatch(index) or int(index) > LARGEST_CHANNEL or not is_name(name):
            raise UserError(
                f"{where}: {key} has {shown(index)}: {shown(name)}; expected a name for each "
                'number of a channel, such as {"0": "T1", "1": "T2"}'
            )
        by_index[int(index)] = " ".join(name.split())
    if sorted(by_index) != list(range(len(by_index))):
        raise UserError(
            f"{where}: {key} names channels {', '.join(map(str, sorted(by_index)))}; expected 0 to "
            f"{len(by_index) - 1}; correct the numbers"
        )
    return tuple(by_index[index] for index in range(len(by_index)))


def _listed(dataset: Any, channels: int, path: Path) -> tuple[ListedCase, ...] | None:
    if dataset is None:
        return None
    if not isinstance(dataset, dict) or not dataset:
        raise UserError(
            f'{path}: dataset {shown(dataset)}; expected {{"case": {{"images": [...], "label": '
            "...}, ...}, or no such key"
        )
    found = []
    for name, files in dataset.items():
        images = files.get("images") if isinstance(files, dict) else None
        if not isinstance(images, list) or not all(
            is_name(file) for file in [*images, files.get("label"), name]
        ):
            raise UserError(
                f'{path}: dataset has {shown(name)}: {shown(files)}; expected {{"images": [a path '
                'for each channel], "label": a path}'
            )
        if len(images) != channels:
            raise UserError(
                f"{path}: case {shown(name)} has {len(images)} image(s); expected {channels}, one "
                "for each channel"
            )
        folder = path.parent
        found.append(
            ListedCase(name, tuple(folder / file for file in images), folder / files["label"])
        )
    return tuple(found)
