"""How the builds of an elastic network's kernels store once what is equal in them."""

from __future__ import annotations

import dataclasses
import shutil

from lmaunet.artifacts import Build


def share_onnx(built: Build, alone: Build, kernel: int) -> Build:
    """Return a kernel's ONNX build beside the reference's, in whose file equal weights lie.

    Its file is ``model.kN.onnx`` in the reference's folder, and its own folder is removed.
    """
    from lmaunet.export.reference import read_model
    from lmaunet.export.shared_weights import share_weights

    path = built.folder / f"{built.shipped.stem}.k{kernel}{built.shipped.suffix}"
    moved = share_weights(built.shipped, read_model(alone.shipped), path)
    detail = {
        **alone.detail,
        "shared": {"alone_bytes": alone.shipped.stat().st_size, "bytes_in_reference": moved},
    }
    shutil.rmtree(alone.folder)
    if not any(alone.folder.parent.iterdir()):
        alone.folder.parent.rmdir()
    return dataclasses.replace(
        alone, folder=built.folder, shipped=path, beside=built.beside, detail=detail
    )
