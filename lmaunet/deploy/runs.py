"""Find a run, and the data that its stages share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError
from lmaunet.stage import DamagedStage, read_manifest, sha256

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset
    from lmaunet.data.nnunet_training import NnunetTraining
    from lmaunet.graph_spec import NetworkSpec

RUNS = Path("runs")
DEFAULT_DATA = Path("calibration_data")
IMPORTED = Path("import") / "model.pt"
"""Where in a run a network is that another program trained."""


def find_run(run: Path | None) -> Path:
    """Return the run's folder: the one that ``--run`` named, or the newest under ``runs/``."""
    if run is not None:
        if not _is_folder(run):
            raise UserError(
                f"--run {run} does not exist; start with: lmaunet-deploy qat --ckpt FILE"
            )
        return run
    newest = _newest()
    if newest is None:
        raise UserError(
            "there is no run under runs/; start with: lmaunet-deploy demo, or "
            "lmaunet-deploy qat --ckpt FILE"
        )
    return newest


def run_for_training(run: Path | None, spec: NetworkSpec, source: DataSource | None) -> Path:
    """Return the run that a network is trained in: the given one, or one named after both.

    The name depends on nothing else, so that the same command goes on in the same folder, in
    each of several processes, and never in another network's run.
    """
    if run is not None:
        _is_folder(run)
        return run
    path = DEFAULT_DATA if source is None else source.path
    return RUNS / f"{spec.name}-{'phantom' if path is None else path.resolve().stem}"


def run_for_checkpoint(run: Path | None, checkpoint: Path) -> Path:
    """Return the run that a checkpoint is quantized in.

    It is the given one, else the run that trained or imported the checkpoint, else the newest if
    it quantized the same file before, else one named after the file and its digest: another network
    never takes a run's place unasked, and the same command goes on in the same folder.
    """
    if run is not None:
        _is_folder(run)
        return run
    if checkpoint.parent.name == "train" and (checkpoint.parent / "manifest.json").exists():
        return checkpoint.parent.parent
    if checkpoint.parts[-2:] == IMPORTED.parts:
        return checkpoint.parent.parent
    digest, newest = sha256(checkpoint), _newest()
    if newest is not None and _quantized(newest) == digest:
        return newest
    return RUNS / f"{checkpoint.stem}-{digest[:8]}"


def _is_folder(run: Path) -> bool:
    if run.exists() and not run.is_dir():
        raise UserError(f"--run {run} is a file; name a folder")
    return run.is_dir()


def _quantized(run: Path) -> str | None:
    """Return the digest of the checkpoint that a run quantized."""
    if not (run / "qat" / "manifest.json").exists():
        return None
    try:
        return read_manifest(run / "qat")["inputs"]["checkpoint"]["sha256"]
    except (DamagedStage, KeyError, TypeError):
        return None  # a damaged run quantized nothing that is known


def _newest() -> Path | None:
    manifests = [*RUNS.glob("*/*/manifest.json"), *RUNS.glob("*/build/*/manifest.json")]
    if not manifests:
        return None
    newest = max(manifests, key=_changed)
    return RUNS / newest.relative_to(RUNS).parts[0]


def _changed(path: Path) -> float:
    """Return when a file was changed; one that another command just moved away is the oldest."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@dataclass(frozen=True)
class DataSource:
    """Where a run's images come from: a folder or file, or the synthetic phantom."""

    path: Path | None
    class_map: Path | None = None
    seed: int = 0

    @property
    def phantom(self) -> bool:
        """Whether the images are synthetic."""
        return self.path is None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON for a stage's options."""
        return {
            "path": None if self.path is None else str(self.path),
            "class_map": None if self.class_map is None else str(self.class_map),
            "seed": self.seed,
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> DataSource:
        """Return the source that :meth:`to_json` wrote."""
        try:
            path, class_map = content["path"], content["class_map"]
            return DataSource(
                Path(path) if path else None,
                Path(class_map) if class_map else None,
                int(content["seed"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the run's note on its data is damaged ({error!r}); name the data again with "
                "lmaunet-deploy qat --ckpt FILE --data DIR"
            ) from error

    def load(
        self, spec: NetworkSpec, training: NnunetTraining | None = None, *,
        spacing_mm: float | None = None, fit: bool | None = None,
    ) -> Dataset:  # fmt: skip
        """Load the images in the network's input size, checked against its channels and classes.

        Those of a network that nnU-Net trained are prepared as its ``training`` says.
        ``spacing_mm`` and ``fit`` are as for :func:`lmaunet.data.loaders.load`.
        """
        from lmaunet.data.loaders import load, load_phantom

        if self.path is None:
            data = load_phantom(
                size=spec.input_size, seed=self.seed, training=training, spacing_mm=spacing_mm,
                fit=fit,
            )  # fmt: skip
        else:
            data = load(
                self.path, size=spec.input_size, seed=self.seed, class_map=self.class_map,
                training=training, spacing_mm=spacing_mm, fit=fit,
            )  # fmt: skip
        channels = data.train.images.shape[1]
        if channels != spec.in_channels:
            other = "" if len(data.classes) == spec.classes else f" --classes {len(data.classes)}"
            raise UserError(
                f"{data.name} has {channels} channel(s), spec {spec.name} takes "
                f"{spec.in_channels} (the data's are {', '.join(data.channels)}); use a network "
                f"trained with --channels {channels}{other}"
            )
        if len(data.classes) != spec.classes:
            raise UserError(
                f"{data.name} has {len(data.classes)} classes, spec {spec.name} has "
                f"{spec.classes}; use a network with --classes {len(data.classes)}, or a "
                f"--class-map that names {spec.classes} classes"
            )
        return data


def choose_data(run: Path, given: DataSource | None) -> DataSource:
    """Return the given source, else that of the run's latest stage, else the fetched CT."""
    if given is not None:
        return given
    for stage in ("qat", "train"):
        if (run / stage / "manifest.json").exists():
            try:
                noted = read_manifest(run / stage)["options"].get("data", {})
            except DamagedStage as error:
                # the command that mends it has to know the data from somewhere else
                raise UserError(f"{error}, with its --data DIR or --phantom") from error
            return DataSource.from_json(noted)
    if not (DEFAULT_DATA / "SOURCE.json").exists():
        raise UserError(
            "no data: give --data DIR, or get the example CT with: lmaunet-deploy data fetch"
        )
    return DataSource(DEFAULT_DATA)
