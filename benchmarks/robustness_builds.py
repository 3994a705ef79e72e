"""Builds, their ONNX files and the stages of a run, changed with and without digests that fit."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from robustness_images import Rng, abdomen, pick

JUNK: tuple[Any, ...] = (
    None,
    0,
    -1,
    1,
    2,
    3.5,
    10**30,
    -(2**63),
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "model.onnx\0",
    "ort",
    "fpga",
    "\ud800",
    [],
    [None],
    [0],
    [1, 2, 3],
    {},
    {"a": 1},
    True,
    False,
    [[[]]],
    "1e5",
    [1e308, 1e308],
    [0.0, 0.0],
    [-1, -1],
    ["a", "b"],
    "nan",
    ".",
    "manifest.json",
)


def walk(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path to every value of a JSON document."""
    if path:
        yield path
    if not isinstance(content, dict | list):
        return
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield from walk(value, (*path, key))


def change_json(rng: Rng, content: Any, said: list[str], times: int = 1) -> Any:
    """Return a JSON document with values replaced, taken away, added or of another type."""
    content = copy.deepcopy(content)
    for _ in range(times):
        paths = list(walk(content))
        if not paths:
            return content
        *before, last = pick(rng, paths)
        place = content
        for key in before:
            place = place[key]
        how = pick(rng, ("junk", "junk", "junk", "gone", "near", "near", "nested", "renamed"))
        old = place[last]
        if how == "gone":
            del place[last]
        elif how == "near" and isinstance(old, int | float) and not isinstance(old, bool):
            place[last] = pick(
                rng, (old + 1, old - 1, -old, old * 2, old * 1000, float(old), str(old))
            )
        elif how == "near" and isinstance(old, str):
            place[last] = pick(rng, (old + "x", old[:-1], old.upper(), old[::-1], " " + old))
        elif how == "nested":
            place[last] = pick(rng, ([old], {"value": old}, {str(last): old}))
        elif how == "renamed" and isinstance(place, dict):
            place[str(last) + "_"] = place.pop(last)
        else:
            place[last] = pick(rng, JUNK)
        where = ".".join(map(str, (*before, last)))
        said.append(f"{where} {how}: {str(place[last])[:40] if how == 'junk' else ''}".strip(": "))
    return content


def json_bytes(rng: Rng, content: Any, said: list[str]) -> bytes:
    """Return a JSON document as bytes, sometimes ones that are not JSON any more."""
    text = json.dumps(content, indent=int(rng.integers(0, 3)) or None)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    choice = rng.random()
    if choice < 0.75:
        return bytes(data)
    how = pick(
        rng, ("cut", "flipped", "bom", "utf-16", "deep", "empty", "twice", "latin-1", "number")
    )
    said.append(f"JSON {how}")
    if how == "cut":
        del data[int(rng.integers(0, len(data))) :]
    elif how == "flipped":
        data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(8))
    elif how == "bom":
        data[:0] = b"\xef\xbb\xbf"
    elif how == "utf-16":
        return text.encode("utf-16", "surrogatepass")
    elif how == "deep":
        return b"[" * 100_000 + b"]" * 100_000
    elif how == "empty":
        return b""
    elif how == "twice":
        data += bytes(data)
    elif how == "latin-1":
        data[1:1] = b'"\xe9": 1, '
    else:
        return b"9" * 6000
    return bytes(data)


def repair(folder: Path) -> None:
    """Give a build's or a stage's manifest the digests of the files as they are now.

    deployment.json gets that of the file that it names first.
    """
    try:
        path = folder / "deployment.json"
        content = json.loads(path.read_bytes())
        shipped = folder / content["shipped"]
        content["sha256"]["shipped"] = digest(shipped)
        path.write_text(json.dumps(content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    try:
        path = folder / "manifest.json"
        content = json.loads(path.read_bytes())
        content["outputs"] = {
            str(p.relative_to(folder)): digest(p)
            for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"
        }  # fmt: skip
        path.write_text(json.dumps(content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sound_image(rng: Rng, folder: Path) -> Path:
    """Write a sound NIfTI file on the network's own spacing."""
    import nibabel

    path = folder / "image.nii.gz"
    affine = np.diag([-2.0, -2.5, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(abdomen(rng).astype(np.int16), affine), path)
    return path


def change_build(rng: Rng, folder: Path, said: list[str]) -> bool:
    """Change a build in its folder; return whether its digests fit again."""
    how = pick(
        rng,
        (
            "deployment.json",
            "deployment.json",
            "build.json",
            "manifest.json",
            "gone",
            "added",
            "bytes",
            "link",
            "onnx",
        ),
    )
    files = sorted(p for p in folder.iterdir())
    said.append(how)
    if how.endswith(".json"):
        path = folder / how
        content = change_json(rng, json.loads(path.read_bytes()), said, int(rng.integers(1, 3)))
        path.write_bytes(json_bytes(rng, content, said))
    elif how == "gone":
        path = pick(rng, files)
        said.append(path.name)
        path.unlink()
    elif how == "added":
        name = pick(
            rng, ("more.txt", "lmaunet_operators.so", "sub/x", ".hidden", "model.onnx.data")
        )
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(rng.bytes(99))
        said.append(name)
    elif how == "bytes":
        path = pick(rng, files)
        data = bytearray(path.read_bytes())
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        said.append(f"a bit of {path.name}")
    elif how == "link":
        path = pick(rng, files)
        path.unlink()
        path.symlink_to(pick(rng, ("nowhere", path.name, "/dev/null", "/")))
        said.append(f"{path.name} a link")
    else:
        change_onnx(rng, folder / "model.onnx", said)
    if how != "manifest.json" and rng.random() < 0.6:
        repair(folder)
        said.append("digests repaired")
        return True
    return how == "manifest.json"


def change_onnx(rng: Rng, path: Path, said: list[str]) -> None:
    """Change the network in an ONNX file, its fields or its bytes."""
    import onnx

    how = pick(
        rng, ("field", "field", "field", "bytes", "bytes", "cut", "weights", "node", "shape")
    )
    data = bytearray(path.read_bytes())
    if how == "bytes":
        for at in rng.integers(0, len(data), int(pick(rng, (1, 2, 8)))):
            data[at] = int(rng.integers(256))
        said.append("onnx: bytes")
    elif how == "cut":
        del data[int(rng.integers(0, len(data))) :]
        said.append(f"onnx: cut to {len(data)}")
    else:
        model = onnx.load_model_from_string(bytes(data))
        said.append(f"onnx: {how} " + ONNX_CHANGES[how](rng, model))
        data = bytearray(model.SerializeToString())
    path.write_bytes(bytes(data))


def _change_field(rng: Rng, model: Any) -> str:
    """Change a number or a text anywhere in the protobuf."""
    places: list[tuple[Any, Any, Any]] = []

    def visit(message: Any) -> None:
        for field, value in message.ListFields():
            many = not isinstance(value, str | bytes | int | float) and hasattr(value, "__len__")
            for index, each in enumerate(value) if many else [(None, value)]:
                if hasattr(each, "ListFields"):
                    visit(each)
                else:
                    places.append((message, field, index))

    visit(model)
    message, field, index = pick(rng, places)
    value = getattr(message, field.name)
    old = value if index is None else value[index]
    if isinstance(old, str):
        new: Any = pick(rng, ("", "x", old + "x", "Conv", "image", "\u00fc", "a" * 1000))
    elif isinstance(old, bytes):
        new = pick(rng, (b"", old[:-1], old + b"\0" * 8, rng.bytes(len(old))))
    elif isinstance(old, float):
        new = float(pick(rng, (0.0, -1.0, 1e30, float("nan"))))
    else:
        new = int(pick(rng, (0, 1, -1, 2, 3, 7, 10, 65, 1000, 2**31 - 1)))
    try:
        if index is None:
            setattr(message, field.name, new)
        else:
            value[index] = new
    except (ValueError, TypeError):
        return f"{field.name} stays"
    return f"{field.name} {str(old)[:20]!r} to {str(new)[:20]!r}"


def _change_weights(rng: Rng, model: Any) -> str:
    tensor = pick(rng, list(model.graph.initializer))
    how = pick(rng, ("nan", "short", "dims", "type", "elsewhere", "gone"))
    if how == "nan":
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()
    elif how == "short":
        tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
    elif how == "dims":
        tensor.dims[0] = int(pick(rng, (0, 1, -1, 2**31, 2**40, 3)))
    elif how == "type":
        tensor.data_type = int(pick(rng, (0, 2, 7, 10, 11, 16, 99)))
    elif how == "elsewhere":
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in (
            ("location", pick(rng, ("x.bin", "../x.bin", "/etc/passwd", "model.onnx"))),
            ("offset", "0"),
            ("length", "64"),
        ):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    else:
        model.graph.initializer.remove(tensor)
    return how


def _change_node(rng: Rng, model: Any) -> str:
    node = pick(rng, list(model.graph.node))
    how = pick(rng, ("twice", "gone", "circle", "domain", "attribute", "output"))
    if how == "twice":
        model.graph.node.add().CopyFrom(node)
    elif how == "gone":
        model.graph.node.remove(node)
    elif how == "circle":
        node.input[0] = node.output[0]
    elif how == "domain":
        node.domain = "ai.nobody"
    elif how == "attribute":
        attribute = node.attribute.add()
        attribute.name, attribute.i, attribute.type = "group", int(pick(rng, (0, 2, -1, 10**6))), 2
    else:
        del node.output[:]
    return how


def _change_shape(rng: Rng, model: Any) -> str:
    end = pick(rng, [*model.graph.input, *model.graph.output])
    dims = end.type.tensor_type.shape.dim
    axis, value = int(rng.integers(len(dims))), int(pick(rng, (0, 1, 2, 3, 63, 128, 2**40, -1)))
    dims[axis].dim_value = value
    if rng.random() < 0.3:
        dims[axis].dim_param = "n"
    if rng.random() < 0.2:
        end.type.tensor_type.elem_type = int(pick(rng, (2, 7, 10, 11)))
    return f"{end.name}[{axis}] = {value}"


ONNX_CHANGES = {
    "field": _change_field,
    "weights": _change_weights,
    "node": _change_node,
    "shape": _change_shape,
}


def change_run(rng: Rng, run: Path, said: list[str]) -> None:
    """Change a file of a run's stages; its stage's digests may fit again."""
    stages = [p.parent for p in sorted(run.rglob("manifest.json"))]
    folder = pick(rng, stages)
    files = sorted(p for p in folder.iterdir() if p.is_file())
    path = pick(rng, [folder / "manifest.json", *files])
    said.append(str(path.relative_to(run)))
    how = pick(rng, ("json", "json", "bytes", "cut", "gone", "junk"))
    if path.suffix == ".json" and how in ("json", "bytes", "junk"):
        content = change_json(rng, json.loads(path.read_bytes()), said, int(rng.integers(1, 3)))
        path.write_bytes(json_bytes(rng, content, said))
    elif how == "gone":
        path.unlink()
        said.append("gone")
    else:
        data = bytearray(path.read_bytes())
        if how == "cut":
            del data[int(rng.integers(0, len(data))) :]
        elif data:
            for at in rng.integers(0, len(data), 3):
                data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        said.append("cut" if how == "cut" else "bits flipped")
    if path.name != "manifest.json" and rng.random() < 0.6:
        repair(folder)
        said.append("digests repaired")


def copied(source: Path, target: Path) -> Path:
    """Copy a folder whole, so that a change stays with its case."""
    shutil.copytree(source, target)
    return target
