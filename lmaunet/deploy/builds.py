"""The builds that a run holds."""

from __future__ import annotations

from pathlib import Path

from lmaunet.artifacts import Build
from lmaunet.deploy.deployment import read_build
from lmaunet.errors import UserError
from lmaunet.stage import read_stage, record_of


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
    names = ["qcdq", "qonnx", *(["float32"] if "float32" in manifest["inputs"] else [])]
    for name in names:
        built_from = manifest["inputs"].get(name, {}).get("sha256")
        if built_from is None or built_from != exported.get(f"network.{name}.onnx"):
            raise UserError(
                f"{folder} was built from an earlier network than {run / 'export'}; "
                f"make it again with: {command}"
            )
    with record_of(folder):
        return read_build(folder)


def built_targets(run: Path) -> list[str]:
    """Return the names of the targets that a run holds builds of, in alphabetical order."""
    return sorted(p.parent.name for p in (run / "build").glob("*/manifest.json"))
