"""The builds that a run holds."""

from __future__ import annotations

from pathlib import Path

from lmaunet.artifacts import Build
from lmaunet.deploy.deployment import read_build
from lmaunet.deploy.export_graphs import place_of
from lmaunet.errors import UserError
from lmaunet.kernel_profiles import PROFILES
from lmaunet.stage import read_stage, record_of, sha256


def load_build(run: Path, target_name: str) -> Build:
    """Return a finished build of a run.

    Raises:
        UserError: where it is not there or damaged, or was made from an earlier export than the
            run's.
    """
    folder = run / "build" / target_name
    command = f"lmaunet-deploy build --target {target_name} --run {run}"
    if not (folder / "manifest.json").exists():
        raise UserError(f"{run} has no {target_name} build; make it with: {command}")
    manifest = read_stage(folder)
    exported = read_stage(run / "export")["outputs"]
    inputs = manifest["inputs"]
    names = ["qcdq", "qonnx", *(["float32"] if "float32" in inputs else [])]
    place = place_of(run / "export", manifest["options"].get("kernel"))
    same = [inputs.get(n, {}).get("sha256") == exported.get(f"{place}network.{n}.onnx", "")
            for n in names]  # fmt: skip
    if PROFILES in inputs:
        same.append(inputs[PROFILES].get("sha256") == sha256(run / "export" / PROFILES))
    if not all(same):
        raise UserError(
            f"{folder} was built from an earlier network than {run / 'export'}; "
            f"make it again with: {command}"
        )
    with record_of(folder):
        return read_build(folder)


def built_targets(run: Path) -> list[str]:
    """Return the names of the targets that a run holds builds of, in alphabetical order."""
    return sorted(p.parent.name for p in (run / "build").glob("*/manifest.json"))
