"""deployment.json, and builds that are used from their folder alone."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil

import lone_build
import pytest

from lmaunet.artifacts import Build
from lmaunet.deploy.deployment import (
    FILE,
    Deployment,
    Interface,
    open_build,
    read_build,
    write_build,
)
from lmaunet.errors import UserError
from lmaunet.stage import read_json, sha256, write_json


@pytest.fixture
def folder(tmp_path):
    return lone_build.make(tmp_path / "run")


@pytest.mark.parametrize("changes", [{}, {"mm": None, "fit": True}, {"channels": 3},
                                     {"mm": (1.5, 0.75), "spacing": (3.0, 1.25, None)},
                                     {"normalization": {"kind": "zscore"}}])  # fmt: skip
def test_a_deployment_is_read_as_it_was_written(tmp_path, changes):
    build, deployment = open_build(lone_build.make(tmp_path / "run", **changes))
    assert deployment.interface == Interface(
        **{**vars(lone_build.interface(**changes)), "digests": deployment.digests}
    )
    assert deployment.digests == {
        "checkpoint": "ab", "qcdq": sha256(tmp_path / "run/network.qcdq.onnx"),
        "shipped": sha256(build.shipped),
    }  # fmt: skip
    assert deployment.target == build.target == "pixels" and deployment.versions["python"]
    again = Deployment.from_json(json.loads(json.dumps(deployment.to_json())), "x")
    assert again == deployment


def test_a_build_is_opened_wherever_it_lies(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    build, _ = open_build(tmp_path / "elsewhere")
    assert build.shipped == tmp_path / "elsewhere" / "model.bin"


def changed(content, path, value):
    made = copy.deepcopy(content)
    *parents, last = path
    place = made
    for key in parents:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(((key,), KeyError) for key in ("target", "shipped", "network", "classes", "input",
                                         "normalization", "resampled_mm", "shrunk_to_fit",
                                         "spacing_mm", "data", "sha256", "versions")),
        (("network", "widths"), [4]),
        (("network", "unknown"), 1),
        (("network",), "edge"),
        (("classes",), "background"),
        (("classes",), ["background"]),
        (("classes",), ["background", 3]),
        (("input", "size"), [64, 64]),
        (("input", "channels"), 2),
        (("normalization", "std"), 0.0),
        (("normalization", "mean"), float("nan")),
        (("normalization", "low"), 300.0),
        (("normalization", "kind"), "minmax"),
        (("resampled_mm",), [3.0]),
        (("resampled_mm",), [3.0, -3.0]),
        (("resampled_mm",), 3.0),
        (("resampled_mm",), [0.0, 3.0]),
        (("resampled_mm",), [3.0, 3.0, 3.0]),
        (("resampled_mm",), [3.0, float("inf")]),
        (("spacing_mm",), [3.0, 3.0, 0.0]),
        (("spacing_mm",), [3.0, 3.0, 3.0, 3.0]),
        (("classes",), ["background", "organ", "another"]),
        (("input", "size"), [16, 16]),
        (("input", "size"), [32]),
        (("input", "channels"), 0),
        (("ships",), [{"name": "a", "bytes": 3}]),
        (("ships",), [{"name": "a", "bytes": "many", "sha256": "x"}]),
        (("ships",), 3),
        (("spacing_mm",), [3.0, 3.0]),
        (("spacing_mm",), [3.0, 3.0, "wide"]),
        (("shrunk_to_fit",), "no"),
        (("sha256", "shipped"), KeyError),
        (("sha256", "qcdq"), 5),
        (("versions",), []),
    ],
)  # fmt: skip
def test_a_damaged_deployment_is_refused(folder, path, value):
    content = changed(read_json(folder / FILE), path, value)
    with pytest.raises(UserError, match=r"^here is damaged.*copy the whole folder again") as raised:
        Deployment.from_json(content, "here")
    # what is missing is named by its kind, and what is said already only once
    assert "(KeyError(" in str(raised.value) or value is not KeyError
    assert "UserError(" not in str(raised.value)


@pytest.mark.parametrize("content", [[], "x", None, {}, {"target": "ort"}])
def test_what_is_no_deployment_is_refused(content):
    with pytest.raises(UserError, match="here is damaged: it is no deployment"):
        Deployment.from_json(content, "here")


@pytest.mark.parametrize("schema", [0, 2])
def test_another_schema_is_named(folder, schema):
    content = changed(read_json(folder / FILE), ("schema",), schema)
    with pytest.raises(UserError, match=f"here has schema {schema}, expected 1: another version"):
        Deployment.from_json(content, "here")


def rewrite(folder, name, change):
    """Change a file of a build and its digest in the manifest, as a careful hand would."""
    change(folder / name)
    manifest = read_json(folder / "manifest.json")
    manifest["outputs"][name] = sha256(folder / name)
    write_json(folder / "manifest.json", manifest)


def put(key, value):
    return lambda path: write_json(path, {**read_json(path), key: value})


def forget(folder, name):
    """Take a file out of a build's manifest."""
    manifest = read_json(folder / "manifest.json")
    del manifest["outputs"][name]
    write_json(folder / "manifest.json", manifest)


def both(folder, change):
    """Change a key alike in what describes a build and what says how to use it."""
    rewrite(folder, FILE, change)
    rewrite(folder, "build.json", change)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: shutil.rmtree(f), "is no folder; give that of a build"),
        (lambda f: (f / "manifest.json").unlink(), "holds no finished build"),
        (lambda f: (f / "model.bin").unlink(), r"model\.bin is missing: its SHA-256 must be"),
        (lambda f: (f / "model.bin").write_bytes(b"weightz"), r"model\.bin has changed since"),
        (lambda f: (f / FILE).write_text("{"), "deployment.json has changed since"),
        (lambda f: (f / FILE).unlink(), "deployment.json is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda f: put("schema", 7)(f / "manifest.json"), "has schema 7, expected 1"),
        (lambda f: put("outputs", {})(f / "manifest.json"), "holds no deployment.json"),
        (lambda f: rewrite(f, FILE, lambda p: p.write_text("{")), "is damaged"),
        (lambda f: rewrite(f, FILE, put("schema", 9)), "has schema 9, expected 1"),
        (lambda f: rewrite(f, FILE, put("target", "ort")), "the folder is mixed from two builds"),
        (lambda f: rewrite(f, FILE, put("target", "zzz")), "the folder is mixed from two builds"),
        (lambda f: rewrite(f, FILE, put("shipped", "a.bin")), "mixed from two builds"),
        (lambda f: rewrite(f, FILE, put("shipped", "z.bin")), "mixed from two builds"),
        (lambda f: rewrite(f, FILE, put("sha256", {"shipped": "0" * 64})), "SHA-256 differs"),
        (lambda f: rewrite(f, FILE, put("sha256", {"shipped": "f" * 64})), "SHA-256 differs"),
        (lambda f: forget(f, FILE), "holds no deployment.json"),
        (lambda f: forget(f, "build.json"), "holds no deployment.json"),
        (lambda f: both(f, put("shipped", "gone.bin")), "is not the file that"),
        (lambda f: rewrite(f, "build.json", put("shipped", "../x")), "mixed|damaged"),
        (lambda f: rewrite(f, "build.json", put("agreements", 3)), "is damaged"),
        (lambda f: rewrite(f, "model.bin", lambda p: p.write_bytes(b"other")),
         "is not the file that .*deployment.json describes"),
    ],
)  # fmt: skip
def test_a_spoilt_build_is_refused(folder, spoil, text):
    spoil(folder)
    with pytest.raises(UserError, match=text) as raised:
        open_build(folder)
    assert "lmaunet-deploy build" in str(raised.value) or "runs/NAME/build/ort" in str(
        raised.value
    ) or "version" in str(raised.value)  # fmt: skip


def test_a_build_of_an_earlier_version_names_no_files_beside_the_first(folder):
    """And how its images were told apart from raw numbers was not noted yet."""

    def drop(*keys):
        return lambda path: write_json(
            path, {k: v for k, v in read_json(path).items() if k not in keys}
        )

    rewrite(folder, FILE, drop("ships", "intensity"))
    rewrite(folder, "build.json", drop("beside"))
    build, deployment = open_build(folder)
    assert deployment.ships == () and build.beside == () and build.ships == (build.shipped,)
    assert deployment.interface.preparation.intensity == ()


def test_what_ships_is_listed_with_its_size_and_digest(tmp_path):
    """The first file and those beside it, in their order."""
    files = {"model.bin": b"weights", "sub/ops.so": b"operators"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    first, second = (tmp_path / name for name in files)
    build = Build("pixels", tmp_path, first, (), {"n": 5}, (second,))
    write_build(build, lone_build.interface(), first)
    written = Deployment.from_json(read_json(tmp_path / FILE), "x")
    assert [dict(file) for file in written.ships] == [
        {"name": name, "bytes": len(content), "sha256": sha256(tmp_path / name)}
        for name, content in files.items()
    ]
    assert written.shipped == "model.bin" and written.digests["qcdq"] == sha256(first)
    assert read_build(tmp_path) == build


@pytest.mark.parametrize("spacing", [(math.nan, 2.0, 1.5), (5.0, math.nan, 1.5), (5.0, 2.0, 1.5)])
def test_a_spacing_that_is_not_known_is_none(tiny_spec, tiny_data, spacing):
    data = dataclasses.replace(tiny_data, spacing_mm=spacing)
    found = Interface.of(tiny_spec, "d1", data, {"checkpoint": "ab"})
    assert found.spacing_mm == tuple(None if math.isnan(mm) else mm for mm in spacing)
    assert (found.network, found.graph) == (tiny_spec, "d1")
    assert (found.classes, found.digests) == (data.classes, {"checkpoint": "ab"})
    ready = found.preparation
    assert (ready.size, ready.resampled_mm, ready.fit, ready.intensity) == (
        tiny_spec.input_size, data.resampled_mm, data.fit, data.intensity,
    )  # fmt: skip
    assert Interface.from_json(found.to_json(), "x") == found


def test_a_run_is_no_build_but_shows_its_builds(folder, tmp_path):
    with pytest.raises(UserError, match=r"holds no finished build; it has .*build/pixels"):
        open_build(tmp_path / "run")
    with pytest.raises(UserError, match=r"holds no finished build; it has .*build/pixels"):
        open_build(tmp_path / "run" / "build")
