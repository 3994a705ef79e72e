"""The command ``heatmap``: where in an image a network looks for a class, on the image's grid."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.images.maps import check_map, write_map
from lmaunet.data.images.masks import suffix_of
from lmaunet.data.inference import prepare_volume
from lmaunet.data.preparation import ImagePreparation, ReadyVolume
from lmaunet.data.preparations import preparation_of
from lmaunet.deploy.console import progress_bar, table
from lmaunet.deploy.deployment import INTERFACE_FILE, Interface
from lmaunet.deploy.run_data import RunData, training_in
from lmaunet.deploy.runs import DataSource, find_run
from lmaunet.deploy.segmenter import Say, check_options
from lmaunet.errors import UserError
from lmaunet.stage import read_json, read_manifest, read_stage, record_of

if TYPE_CHECKING:
    import numpy as np
    from torch.nn import Module

MEANING = "1 is the largest value of this block in the image"


@dataclass(frozen=True)
class HeatmapOptions:
    """What a map is of.

    Args:
        stage: a block's name, or a value of the network's graph; None for each block.
        pixels: ``mask`` or ``all``; see :func:`lmaunet.quant.heatmaps.class_activation`.
        quantized: of a run, the QAT network instead of the float one.
        overlap, batch: as for ``infer``.
    """

    stage: str | None = None
    pixels: str = "mask"
    quantized: bool = False
    overlap: float = 0.5
    batch: int = 4

    def __post_init__(self) -> None:
        check_options(self.overlap, self.batch)
        if self.pixels not in ("mask", "all"):
            raise UserError(f"--pixels {self.pixels}; give mask or all")


@dataclass(frozen=True)
class Explained:
    """A network to explain: its file, what it tells apart, and how its images are prepared."""

    path: Path
    network: Module
    classes: Sequence[str]
    channels: int
    preparation: ImagePreparation


def heatmap(
    run: Path | None,
    ckpt: Path | None,
    data: Path | None,
    images: Sequence[Path],
    wanted: str,
    output: Path,
    options: HeatmapOptions,
) -> tuple[Any, list[str]]:
    """Write the maps of a class for an image; return the result as JSON and as lines.

    Args:
        run: a run, whose network is explained; the newest where it and ``ckpt`` are None.
        ckpt: a checkpoint, float or quantized.
        data: what the checkpoint was trained on, where it does not lie in a run.
        images: a file or a DICOM folder for each channel.
        wanted: the class, by name or index.
        output: the map; with several blocks each one's name is put before the suffix.
        options: see there.

    Raises:
        UserError: where something cannot be used; nothing is written then.
    """
    check_map(output, images)
    if run is not None and ckpt is not None:
        raise UserError("--run and --ckpt exclude each other; give one")
    with progress_bar(f"explaining {wanted}") as say:
        say(0.0, "loading torch and the network")
        explained = open_network(run, ckpt, data, options.quantized)
        from lmaunet.quant.heatmaps import blocks_of, value_of

        index = class_index(explained, wanted)
        blocks = (
            blocks_of(explained.network)
            if options.stage is None
            else {options.stage: value_of(explained.network, options.stage)}
        )
        paths = {name: _path_of(output, name, len(blocks)) for name in blocks}
        for path in paths.values():
            check_map(path, images)
        say(0.05, f"reading {images[0].name}")
        volume = prepare_volume(images, explained.preparation, explained.channels)
        for path in paths.values():
            volume.check_output(path)
        maps = maps_of(explained, volume, index, list(blocks.values()), options, say)
        largest = {}
        for name, values in zip(blocks, maps, strict=True):
            largest[name] = float(values.max())
            if largest[name] > 0:
                values /= largest[name]
            write_map(paths[name], values, volume.geometry)
    empty = [name for name, value in largest.items() if value == 0]
    notes = [*volume.notes]
    if empty:
        gives = "gives no pixel of this image the class" if options.pixels == "mask" else "has"
        notes.append(
            f"the map of {', '.join(empty)} is 0 throughout: the network {gives}"
            + ("; --pixels all explains every pixel" if options.pixels == "mask" else " no slope")
        )
    content = {
        "class": {"index": index, "name": explained.classes[index]},
        "checkpoint": str(explained.path),
        "pixels": options.pixels,
        "meaning": MEANING,
        "maps": [
            {"block": name, "file": str(paths[name]), "largest": largest[name]} for name in blocks
        ],
        "notes": notes,
    }
    rows = [[name, f"{largest[name]:.3g}", str(paths[name])] for name in blocks]
    what = f"{explained.classes[index]} by {explained.path}; {MEANING}"
    return content, [what, *table(["block", "largest", "file"], rows), *notes]


def open_network(
    run: Path | None, ckpt: Path | None, data: Path | None, quantized: bool = False
) -> Explained:
    """Return the network of a run or a checkpoint, and how its images are prepared.

    Raises:
        UserError: where there is none, it takes volumes, or nothing says how images are prepared.
    """
    if ckpt is None:
        run = find_run(run)
        ckpt = _file_of(run, quantized)
    elif quantized:
        raise UserError("--quantized is for --run; a checkpoint is what it is: leave it out")
    elif not ckpt.is_file():
        raise UserError(f"--ckpt {ckpt} is no file; give a checkpoint")
    from lmaunet.deploy.pretraining import require_trained
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.quant.qat import load_quantized
    from lmaunet.sources.checkpoint import restore

    loaded = load_checkpoint(ckpt)
    require_trained(loaded.notes, ckpt)
    spec = loaded.spec
    if len(spec.input_size) != 2:
        raise UserError(f"{ckpt} is of a network of volumes; maps are made of 2-D networks")
    network = load_quantized(ckpt) if loaded.kind == "quantized" else restore(loaded, ckpt)
    folder = ckpt.parent
    interface = folder.parent / "export" / INTERFACE_FILE
    if data is None and folder.name in ("qat", "control") and interface.is_file():
        with record_of(interface.parent):
            read_stage(interface.parent)
            said = Interface.from_json(read_json(interface), str(interface))
        return Explained(ckpt, network, said.classes, spec.in_channels, said.preparation)
    noted: dict[str, Any] = {}
    if (folder / "manifest.json").is_file():
        noted = dict(read_manifest(folder)["options"])
    if data is None and "data" not in noted:
        raise UserError(
            f"nothing beside {ckpt} says how its images are prepared; give the data that it was "
            "trained on: --data DIR"
        )
    source = DataSource.from_json(noted["data"]) if data is None else DataSource(data)
    loaded_data = RunData(folder.parent, source, spec, training_in(noted)).load()
    classes = loaded.notes.get("classes") or loaded_data.classes
    if list(classes) != list(loaded_data.classes):
        raise UserError(
            f"{ckpt} was trained on the classes {', '.join(classes)}, {loaded_data.name} has "
            f"{', '.join(loaded_data.classes)}; give the data that it was trained on"
        )
    return Explained(ckpt, network, classes, spec.in_channels, preparation_of(loaded_data))


def _file_of(run: Path, quantized: bool) -> Path:
    """Return the file of a run's network; raises UserError where it has none."""
    if quantized:
        read_stage(run / "qat")
        return run / "qat" / "model.pt"
    for stage, name in (("control", "control.pt"), ("train", "model.pt"), ("import", "model.pt")):
        if (run / stage / name).is_file():
            with contextlib.suppress(FileNotFoundError):
                read_stage(run / stage)
            return run / stage / name
    raise UserError(
        f"{run} has no float network; train one (lmaunet-deploy train), or give --ckpt FILE"
    )


def class_index(explained: Explained, wanted: str) -> int:
    """Return the index of a class by its name, in any case, or its number."""
    names = [name.casefold() for name in explained.classes]
    if wanted.casefold() in names:
        return names.index(wanted.casefold())
    if re.fullmatch(r"[0-9]{1,4}", wanted) and int(wanted) < len(names):
        return int(wanted)
    raise UserError(
        f"--class {wanted!r} is no class of {explained.path}; it has "
        f"{', '.join(f'{i} {name}' for i, name in enumerate(explained.classes))}"
    )


def maps_of(
    explained: Explained,
    volume: ReadyVolume,
    index: int,
    values: Sequence[str],
    options: HeatmapOptions,
    say: Say = lambda share, line: None,
) -> np.ndarray:
    """Return the maps of a class, float32 ``(values, z, y, x)`` in LPS on the image's grid.

    Where windows cover a slice, their maps are averaged as ``infer`` averages their logits.
    """
    import numpy as np
    import torch

    from lmaunet.quant.heatmaps import class_activation

    def run(images: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(np.ascontiguousarray(images))
        pixels: Any = options.pixels
        return class_activation(explained.network, given, index, values, pixels).numpy()

    maps = np.zeros((len(values), *volume.geometry.shape), np.float32)
    inside = volume.within(maps)
    for start in range(0, len(volume), options.batch):
        stop = min(start + options.batch, len(volume))
        say(0.1 + 0.85 * start / len(volume), f"slice {start + 1} of {len(volume)}")
        images = volume.images(start, stop)
        found = volume.cover(images, run, overlap=options.overlap, batch=options.batch)
        inside[:, start:stop] = np.maximum(volume.logits(found), 0).swapaxes(0, 1)
    return maps


def _path_of(output: Path, block: str, count: int) -> Path:
    """Return a block's file: the one that was named where there is one block."""
    if count == 1:
        return output
    suffix = suffix_of(output)
    safe = re.sub(r"[^A-Za-z0-9._#-]", "_", block)
    return output.with_name(f"{output.name[: -len(suffix)]}.{safe}{suffix}")
