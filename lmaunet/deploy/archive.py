"""``infer ARCHIVE -o MASKS``: the masks of all studies in a folder, by several processes.

What is done is in the records beside the masks (:mod:`.studies`), so that the same command goes on
where it was stopped, and one study that fails stops no other. ``MASKS/studies.csv`` has a row for
each study.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.images.masks import LABEL_SUFFIXES, OUTPUT_SUFFIXES
from lmaunet.data.layouts.folders import is_folder, readable_volume
from lmaunet.deploy.given import fusion_of
from lmaunet.deploy.inferring import check_together
from lmaunet.deploy.kernel_choice import Chooser
from lmaunet.deploy.run_lock import in_use
from lmaunet.deploy.segmenter import Say, Segmenter, check_options, load
from lmaunet.deploy.studies import (
    DONE,
    FAILED,
    SCHEMA,
    Aside,
    Study,
    find_studies,
    is_done,
    read_record,
)
from lmaunet.deploy.study_workers import Task, segment_all, workers_of
from lmaunet.errors import UserError
from lmaunet.stage import read_json, write_json

if TYPE_CHECKING:
    from lmaunet.deploy.infer_command import ArchiveOptions, InferOptions

HEADER = ".archive.json"
"""What the masks of a folder were made with. Hidden, so that no study can have the name."""
TABLE = "studies.csv"
THERE = "there already"
FIRST_FAILED = 5
MOST_WORKERS = 1024


def segment_archive(
    folder: Path,
    images: Sequence[Path],
    masks: Path,
    options: InferOptions,
    several: ArchiveOptions,
    say: Say,
) -> tuple[dict[str, Any], list[str], int]:
    """Segment the studies of a folder.

    Args:
        folder: the build's.
        images: the archive: one folder of studies at any depth (:func:`.studies.find_studies`).
        masks: where masks, records and ``studies.csv`` go; made where it is not there.
        options: how each study is segmented, as for one image.
        several: ``workers``, processes of this machine, as many as fit it for None; or the address
            of a Dask ``scheduler``, whose workers do it; and the ``suffix`` of the masks.
        say: called with the share that is done and a line.

    Returns:
        The result as JSON, as lines, and the status: 1 where a study failed.

    Raises:
        UserError: where the folders, the build or an option cannot be used; no mask is written.
    """
    began = time.perf_counter()
    if len(images) > 1:
        raise UserError(
            f"-o {masks} is a folder, for the masks of a folder of studies; {len(images)} images "
            "were given: name one mask"
        )
    archive, suffix, scheduler = images[0], several.suffix, several.scheduler
    _check(archive, masks, options, several)
    say(0.0, "opening the build")
    opened = load(folder)
    # what no study can be segmented with is refused once, not in each
    opened.mirrored_along(options.tta)
    fusion_of(Chooser.of(opened, options.kernel).interface, options.fuse, options.missing)
    say(0.0, f"looking through {archive}")
    find = functools.partial(find_studies, archive, opened.channels, options.missing)
    aside = Aside()
    total = sum(1 for _ in find(aside))
    if not total:
        raise UserError(
            f"{archive} has no image in it: no NIfTI, NRRD or MetaImage file and no folder of "
            f"DICOM files; {aside.note()[0] if aside.count else 'put studies there'}"
        )
    with in_use(masks, "-o"):
        task = _task(opened, archive, masks, options, suffix)
        counts: Counter[str] = Counter()

        def said(study: Study | None, status: str) -> None:
            if study is not None:
                counts[status] += 1
            at = f"{sum(counts.values())} of {total} studies"
            failed = f", {counts[FAILED]} failed" if counts[FAILED] else ""
            say(sum(counts.values()) / total, at + failed)

        def left() -> Iterator[Study]:
            for study in find():
                if is_done(study, masks, suffix, task.key):
                    said(study, THERE)
                else:
                    yield study

        with workers_of(scheduler, several.workers) as found:
            segment_all(left(), task, found, said)
            at_a_time = found.workers
        failed = write_table(find(), masks, opened.classes[1:], suffix)
    content = {
        "archive": str(archive), "masks": str(masks), "studies": total,
        "done": counts[DONE], "there_already": counts[THERE],
        "failed": counts[FAILED], "first_failed": failed, "passed_over": aside.count,
        "workers": at_a_time, "scheduler": scheduler or None,
        "table": str(masks / TABLE), "seconds": round(time.perf_counter() - began, 3),
    }  # fmt: skip
    return content, _lines(content, aside), 1 if counts[FAILED] else 0


def _check(archive: Path, masks: Path, options: InferOptions, several: ArchiveOptions) -> None:
    workers, suffix = several.workers, several.suffix
    check_options(options.overlap, options.batch)
    check_together(options.crf, options.fuse, options.missing)
    if options.confidence is not None:
        raise UserError("--confidence is for one image; leave it out, or give images one by one")
    if suffix not in OUTPUT_SUFFIXES:
        raise UserError(f"--format {suffix}; give one of {', '.join(OUTPUT_SUFFIXES)}")
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"--workers {workers}; give 1 to {MOST_WORKERS}")
    if workers is not None and several.scheduler:
        raise UserError("--workers and --scheduler: a cluster has its own workers; give one")
    if not is_folder(archive):
        what = "is a file" if archive.exists() else "does not exist"
        raise UserError(
            f"{archive} {what}, and -o {masks} names a folder of masks: give a folder of studies, "
            f"or name the mask {masks.name or 'mask'}{LABEL_SUFFIXES[0]}"
        )
    if readable_volume(archive):
        raise UserError(
            f"{archive} is one DICOM series; name its mask "
            f"{masks.name or 'mask'}{LABEL_SUFFIXES[0]}, or give the folder above it"
        )
    one, other = archive.resolve(), masks.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise UserError(
            f"-o {masks} and {archive} lie in each other, so that masks would be taken for "
            "studies; name a folder beside it"
        )


def _task(
    opened: Segmenter, archive: Path, masks: Path, options: InferOptions, suffix: str
) -> Task:
    """Return what workers are told; the folder of masks is checked, or begun.

    Raises:
        UserError: where it holds masks of another build or other options, or other things.
    """
    made_with = {
        "build": {name: opened.digests[name] for name in sorted(opened.digests)},
        "target": opened.target, "network": opened.network, "format": suffix,
        "options": dataclasses.asdict(options),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
    header = masks / HEADER
    if header.exists():
        try:
            known = read_json(header)
            same = known["key"] == key
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{header} is damaged; name a new folder of masks") from error
        if not same:
            differs = [n for n in made_with if known.get(n) != json.loads(json.dumps(made_with[n]))]
            raise UserError(
                f"-o {masks} has masks that were made with another {' and '.join(differs)}; name "
                "a new folder, so that no mask is taken for one of these"
            )
    else:
        others = [p.name for p in sorted(masks.iterdir()) if not p.name.startswith(".")]
        if others:
            raise UserError(
                f"-o {masks} holds other files ({others[0]}); name a new or an empty folder"
            )
        write_json(header, {
            "schema": SCHEMA, "key": key, **made_with, "archive": str(archive),
            "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        })  # fmt: skip
    # other machines have other working directories
    return Task(
        opened.folder.absolute(), opened.digests["shipped"], masks.absolute(), suffix, options, key
    )


def write_table(
    studies: Iterable[Study], masks: Path, names: Sequence[str], suffix: str
) -> list[str]:
    """Write a row for each study, with the ml of the classes named; return the first that failed.

    The rows are read from the records one by one, so that its memory does not grow.
    """
    failed: list[str] = []
    partial = masks / f".{TABLE}.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["study", "status", "mask", "seconds", *(f"{n} ml" for n in names), "notes"])
        for study in studies:
            record = read_record(study, masks) or {"status": "missing"}
            ml = {c["name"]: c["ml"] for c in record.get("classes", [])}
            notes = record.get("error") or "; ".join(record.get("notes", []))
            mask = f"{study.name}{suffix}" if record["status"] == DONE else ""
            table.writerow([
                study.name, record["status"], mask, record.get("seconds", ""),
                *(ml.get(name, "") for name in names), notes,
            ])  # fmt: skip
            if record["status"] != DONE and len(failed) < FIRST_FAILED:
                failed.append(f"{study.name}: {notes}")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(masks / TABLE)
    return failed


def _lines(content: dict[str, Any], aside: Aside) -> list[str]:
    again = f", {content['there_already']} there already" if content["there_already"] else ""
    lines = [
        f"{content['studies']} studies: {content['done']} done{again}, {content['failed']} failed",
        *aside.note(),
    ]
    if content["failed"]:
        lines += content["first_failed"]
        more = content["failed"] - len(content["first_failed"])
        lines += [f"and {more} more in the table"] if more > 0 else []
        lines.append("the same command tries those that failed again")
    rate = content["done"] / content["seconds"]
    lines.append(
        f"{content['workers']} at a time, {content['seconds']:.1f} s, {60 * rate:.1f} a minute"
    )
    lines.append(f"wrote {content['table']}")
    return lines
