"""``infer --confidence``: the map's file, and what is said of volumes and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.confidence import SAMPLES, check_draw, covered_share
from lmaunet.data.images.maps import check_map, write_map
from lmaunet.deploy.confident import Confidence, Samples, begin_samples, check_confident
from lmaunet.deploy.console import table
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.data.preparation import ReadyVolume
    from lmaunet.deploy.segmenter import Segmenter


@dataclass(frozen=True)
class MapOptions:
    """Where the map goes, and of how many samples of which seed it is."""

    path: Path
    samples: int = SAMPLES
    seed: int = 0

    @staticmethod
    def of(path: Path | None, samples: int | None, seed: int | None) -> MapOptions | None:
        """Return the options as typed, None where no map is asked for.

        Raises:
            UserError: for samples or a seed without a map.
        """
        if path is None:
            for name, given in (("--samples", samples), ("--seed", seed)):
                if given is not None:
                    raise UserError(
                        f"{name} {given} is for --confidence; give it the map's path, such as "
                        "--confidence map.nii.gz, or leave it out"
                    )
            return None
        return MapOptions(path, SAMPLES if samples is None else samples, seed or 0)

    def check(self, output: Path, images: Sequence[Path]) -> None:
        """Raise UserError where the samples, the seed or the map's path cannot be."""
        check_draw(self.samples, self.seed)
        check_map(self.path, images)
        paths = [path.absolute().resolve() for path in (self.path, output)]
        if paths[0] == paths[1]:
            raise UserError(
                f"--confidence {self.path} is the mask's path, -o; give the map another name"
            )

    def check_build(self, opened: Segmenter) -> None:
        """Raise UserError where a build says no confidence."""
        check_confident(opened.backend, opened.build, opened.deployment.interface)

    def begin(self, opened: Segmenter, volume: ReadyVolume) -> Samples:
        """Return the samples of a volume; raises UserError where no map can lie on its grid."""
        volume.check_output(self.path)
        return begin_samples(opened, volume, self.samples, self.seed)

    def write(self, drawn: Samples | None, volume: ReadyVolume) -> Sure:
        """Write the map of what was gathered."""
        assert drawn is not None
        found = drawn.result(volume, lambda values: values)
        write_map(self.path, found.entropy, volume.geometry)
        return Sure(self.path, found)


@dataclass(frozen=True)
class Sure:
    """A map that was written, and what it is of."""

    path: Path
    found: Confidence


def add_confidence(content: dict[str, Any], sure: Sure) -> list[str]:
    """Add to the command's JSON what is known of confidence; return the lines on it."""
    found, rows = sure.found, []
    for entry in content["classes"]:
        volumes: np.ndarray = found.volumes_ml[entry["index"]]
        low, high = found.interval_ml(entry["index"])
        entry["interval_ml"] = [round(low, 3), round(high, 3)]
        entry["samples_ml"] = [round(float(ml), 3) for ml in volumes]
        if entry["index"]:
            rows.append([entry["name"], *(f"{ml:,.1f}" for ml in (entry["ml"], low, high))])
    samples = found.volumes_ml.shape[1]
    content["confidence"] = {
        "map": str(sure.path), **found.to_json(),
        "mean_entropy": round(float(found.entropy.mean()), 6),
        "largest_entropy": round(float(found.entropy.max()), 6),
    }  # fmt: skip
    return [
        *table(["class", "ml", "least of the samples", "largest"], rows),
        f"volumes over {samples} samples with dropout, seed {found.seed}: a further sample lies "
        f"between least and largest with probability {covered_share(samples):.2f}; where the true "
        "volume lies they do not say",
        f"wrote {sure.path}: entropy in nats, 0 where all is sure, at most "
        f"{_largest(len(content['classes'])):.2f}; temperature {found.temperature:.3g}",
        "",
    ]


def _largest(classes: int) -> float:
    import math

    return math.log(classes)
