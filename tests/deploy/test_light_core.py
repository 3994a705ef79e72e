"""A machine that segments and reports alone: nothing that trains, exports or builds is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import finished_run
import fresh_process
import numpy as np
import pytest
import SimpleITK
import small_build
from fresh_process import ROOT, assert_one_line
from fresh_process import run as run_alone
from small_build import write_scan

import lmaunet
from lmaunet.data.nnunet_inference import NnunetPreparation
from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe
from lmaunet.deploy import inferring
from lmaunet.packages import declared, module_of
from lmaunet.stage import read_json

ABSENT = tuple(
    module_of(name)
    for extra, group in declared().items() for name in group if extra and extra != "dev"
)  # fmt: skip
"""The modules of every extra that a command needs."""
RESAMPLERS = ("scipy", "skimage")
LARGEST_MB = 480
"""What a virtual environment with the base dependencies may take."""
SOURCES = (
    "lmaunet", "quant", "export", "cpu", "trt", "fpga", "pyproject.toml", "setup.py", "README.md",
    "LICENSE",
)  # fmt: skip


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    alone = tmp_path_factory.mktemp("copied") / "ort"
    return small_build.make(tmp_path_factory.mktemp("run"), alone)


def labels_of(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_an_ort_build_segments_with_the_base_alone(build, tmp_path, suffix):
    """The mask is that of a machine with everything, to the pixel."""
    scan = write_scan(tmp_path / f"scan{suffix}")
    done = run_alone(
        "infer", "--build", build, scan, "-o", f"mask{suffix}", "--json",
        cwd=tmp_path, lacking=ABSENT, heavy=ABSENT,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "loaded:", done.stderr
    want = tmp_path / f"want{suffix}"
    content, _ = inferring.infer(
        build, [scan], want, overlap=0.5, batch=4, say=lambda share, line: None
    )
    got = labels_of(tmp_path / f"mask{suffix}")
    np.testing.assert_array_equal(got, labels_of(want))
    assert len(np.unique(got)) == 3
    assert json.loads(done.stdout)["classes"] == content["classes"]


def test_a_build_of_nnunets_recipe_segments_with_the_base_alone(tmp_path):
    """Resampled by splines, windowed, mirrored, a z-score of the filled voxels."""
    channel = ChannelRecipe("ZScoreNormalization", True, {})
    recipe = NnunetRecipe((32, 32), (2.0, 2.5), (0, 1, 2), (channel,), (0, 1))
    (tmp_path / "run").mkdir()
    folder = small_build.make(tmp_path / "run", tmp_path / "ort", NnunetPreparation(recipe))
    scan = write_scan(tmp_path / "scan.nii.gz", (4, 40, 50), (2.0, 3.0, 4.0))
    done = run_alone(
        "infer", "--build", folder, scan, "-o", "mask.nii.gz", "--tta", "--json",
        cwd=tmp_path, lacking=(*ABSENT, *RESAMPLERS), heavy=(*ABSENT, *RESAMPLERS),
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "loaded:", done.stderr
    content = json.loads(done.stdout)
    assert content["slices"]["windows_per_slice"] == 6 and content["slices"]["count"] == 4
    assert content["slices"]["mirrored"] == ["rows", "columns"]
    got = labels_of(tmp_path / "mask.nii.gz")
    assert got.shape == (4, 40, 50) and len(np.unique(got)) > 1
    np.testing.assert_array_equal(
        got, SimpleITK.GetArrayFromImage(lmaunet.load(folder)(scan, tta=True))
    )


def test_the_device_is_timed_with_the_base_alone(build, tmp_path):
    done = run_alone(
        "bench", "--build", build, "--json", cwd=tmp_path, lacking=ABSENT, heavy=ABSENT
    )
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "loaded:", done.stderr
    found = json.loads(done.stdout)
    assert found["latency_ms"]["provenance"] == "measured" and found["latency"]["runs"] == 30


def test_a_program_segments_with_the_base_alone(build, tmp_path):
    """By the names of the package, of which importing it loads nothing."""
    write_scan(tmp_path / "scan.nii.gz")
    program = (
        f"import sys; sys.path.insert(0, {str(Path(fresh_process.__file__).parent)!r})\n"
        f"import fresh_process; sys.argv[1:] = [{json.dumps(json.dumps(ABSENT))}]\n"
        "exec(fresh_process.PROGRAM.partition('sys.argv[0]')[0])\n"
        "before = set(sys.modules)\n"
        "import lmaunet\n"
        "loaded = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "assert not loaded & {'numpy', 'SimpleITK', 'onnxruntime'}, loaded\n"
        f"mask = lmaunet.load({str(build)!r})('scan.nii.gz')\n"
        "print(mask.GetSize(), sorted(LACKING & set(sys.modules)))"
    )
    done = call(sys.executable, "-c", program, cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout == "(40, 32, 3) []\n", done.stderr


def test_what_is_of_an_extra_is_asked_for_in_one_line(build, tmp_path):
    """With all that the extra names and lacks, so that one command is enough."""
    (tmp_path / "slice.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
    (tmp_path / "masks").mkdir()
    line = ("infer", "--build", build, "slice.dcm", "-o", "masks/mask.nii")
    done = run_alone(*line, cwd=tmp_path, lacking=ABSENT)
    assert_one_line(done, 3, "pydicom", "pip install 'pydicom>=3.0,<4' 'highdicom>=0.28,<0.29'")
    done = run_alone("train", "--phantom", cwd=tmp_path, lacking=ABSENT)
    assert_one_line(done, 3, "pip install", *declared()["qat"])
    done = run_alone("build", "--target", "fpga", cwd=tmp_path, lacking=ABSENT)
    assert_one_line(done, 3, "pip install finn-plus==1.6.1 psutil torch==2.12.1 ")
    assert {path.name for path in tmp_path.rglob("*")} == {"slice.dcm", "masks"}


def call(*arguments, **options):
    return subprocess.run(
        list(map(str, arguments)), capture_output=True, encoding="utf-8", check=False,
        timeout=1800, **options,
    )  # fmt: skip


def install(venv, wheel):
    """Install a wheel and its dependencies into a new environment; skip without a registry."""
    pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    made = call(sys.executable, "-m", "venv", venv)
    assert made.returncode == 0, made.stderr
    done = call(*pip, "install", "--quiet", wheel)
    if done.returncode and "o matching distribution" in done.stderr:
        pytest.skip("pip reaches no registry of packages here")
    assert done.returncode == 0, done.stderr
    done = call(*pip, "check")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_wheel_alone_is_small_and_segments_and_reports(tmp_path, record_property):
    """As a user installs it: no package but those that the wheel names."""
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        place = ROOT / name
        copy = shutil.copytree if place.is_dir() else shutil.copy
        copy(place, source / name)
    done = call(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path / "wheel", source)
    if done.returncode and "o matching distribution" in done.stderr:
        pytest.skip("pip reaches no registry of packages here")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheel").iterdir()
    venv = tmp_path / "venv"
    install(venv, wheel)
    (packages,) = venv.glob("lib/python3*/site-packages")
    size_mb = sum(p.stat().st_blocks * 512 for p in packages.rglob("*") if p.is_file()) / 2**20
    record_property("site_packages_mb", size_mb)
    assert size_mb <= LARGEST_MB
    assert not [name for name in ("torch", "onnx", "pydicom") if (packages / name).exists()]

    made = finished_run.make(tmp_path)
    box = tmp_path / "box"
    box.mkdir()
    shutil.copytree(made / finished_run.RUN, box / finished_run.RUN)
    shutil.copytree(made / finished_run.RUN / "build" / "ort", box / "ort")
    scan = write_scan(box / "scan.nii.gz", (3, 32, 32))
    content, _ = inferring.infer(
        box / "ort", [scan], tmp_path / "want.nii.gz", overlap=0.5, batch=4,
        say=lambda share, line: None,
    )  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    program = venv / "bin" / "lmaunet-deploy"
    line = (program, "infer", "--build", "ort", scan, "-o", "mask.nii.gz", "--json")
    started = time.perf_counter()
    done = call(*line, cwd=box, env=environment)
    record_property("infer_s", time.perf_counter() - started)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(
        labels_of(box / "mask.nii.gz"), labels_of(tmp_path / "want.nii.gz")
    )
    assert json.loads(done.stdout)["classes"] == content["classes"]
    done = call(program, "doctor", "--json", cwd=box, env=environment)
    assert done.returncode == 0, done.stdout
    works = {c["commands"].split()[0]: c["works"] for c in json.loads(done.stdout)["commands"]}
    assert works["infer,"] and not works["spec,"]
    before = read_json(box / finished_run.RUN / "report.json")
    done = call(program, "report", "--json", cwd=box, env=environment)
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["targets"] == before["targets"]
    done = call(program, "export", cwd=box, env=environment)
    assert done.returncode in (0, 3) and "Traceback" not in done.stderr
