"""The library of operators that ONNX Runtime takes in place of the functions of ``ai.lmaunet``.

``cpu/native`` holds its sources: the selective scan in float32 and from UINT8 codes to codes,
and SiLU of codes. It needs a C++ compiler and no header of ONNX Runtime's, whose interface is
declared in ``runtime_abi.hpp``. The kernels are compiled for AVX-512, AVX2 and the x86-64 baseline
(on other processors once, without options), and the library picks one when it is loaded.

Without the library a file computes the same by the functions that it defines, slower.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from lmaunet.errors import ToolNotFound, UserError

LIBRARY = "lmaunet_operators.so"
SOURCES = Path(__file__).parent / "native"
COMPILERS = ("g++", "c++", "clang++")
PURPOSE = "compiles the operators that make a CPU's file faster"
FIX = "install a C++ compiler, such as Debian's package g++"
# no -ffast-math: the kernels round by adding a large number
FLAGS = (
    "-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-Wno-psabi",
)  # fmt: skip
VARIANTS = {
    "x86_64": {
        "default": ("-march=x86-64",),
        "haswell": ("-march=haswell",),
        "skylake_avx512": ("-march=skylake-avx512",),
    },
}
DOT_PRODUCTS = {"x86_64": {"cascadelake": ("-march=cascadelake",)}}
"""For the kernels that sum products of codes, beside those of :data:`VARIANTS`."""
COMPILE_SECONDS = 300


def compiler() -> str | None:
    """Return the path of the C++ compiler; ``$CXX`` goes first. None where there is none."""
    named = os.environ.get("CXX", "")
    names = (named, *COMPILERS) if named else COMPILERS
    return next(filter(None, map(shutil.which, names)), None)


def compiler_version(tool: str) -> str:
    """Return a compiler's version, as ``12.2.0``."""
    return _output(tool, "-dumpfullversion", "-dumpversion").strip()


def _output(tool: str, *arguments: str) -> str:
    try:
        done = subprocess.run([tool, *arguments], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", errors="replace")


def build_library(path: Path) -> Path:
    """Compile the library into a file, which is complete or absent; return its path.

    Raises:
        ToolNotFound: where there is no C++ compiler.
        UserError: where it fails, with its last lines.
    """
    tool = compiler()
    if tool is None:
        raise ToolNotFound("g++", "to compile the operators of a CPU's file", FIX)
    variants = VARIANTS.get(platform.machine(), {"default": ()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".operators-") as folder:
        dots = {**variants, **DOT_PRODUCTS.get(platform.machine(), {})}
        units: list[tuple[str, str, tuple[str, ...]]] = [
            ("operators.cpp", "operators", ()),
            ("normed_conv.cpp", "normed_conv", ()),
        ]
        units += [
            (source, f"{Path(source).stem}_{name}", (*options, f"-DINSTRUCTIONS={name}"))
            for source, sets in (("scan_kernels.cpp", variants), ("normed_conv_kernels.cpp", dots))
            for name, options in sets.items()
        ]
        objects = [f"{name}.o" for _, name, _ in units]
        running = [
            subprocess.Popen(
                [tool, *FLAGS, *options, "-c", str(SOURCES / source), "-o", f"{name}.o"],
                cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )
            for source, name, options in units
        ]  # fmt: skip
        for process in running:
            _finish(process)
        link = [tool, "-shared", "-s", *objects, "-o", LIBRARY]
        _finish(
            subprocess.Popen(link, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
        (Path(folder) / LIBRARY).replace(path)
    return path


def _finish(process: subprocess.Popen[bytes]) -> None:
    try:
        _, errors = process.communicate(timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise UserError(
            f"the C++ compiler took more than {COMPILE_SECONDS} s; build again on a quieter machine"
        ) from error
    if process.returncode:
        # a compiler's quotation marks are in the encoding of its choice
        text = errors.decode("utf-8", errors="replace")
        lines = "\n".join(f"  {line}" for line in text.splitlines()[-5:])
        raise UserError(
            f"the C++ compiler failed with status {process.returncode}:\n{lines}\nset CXX to "
            "another compiler, or build with --no-operators"
        )


def cached_library() -> Path:
    """Return the library for this machine, compiled at the first call with these sources.

    It lies in ``$XDG_CACHE_HOME/lmaunet-deploy`` or ``~/.cache/lmaunet-deploy``. Raises as
    :func:`build_library`.
    """
    tool = compiler()
    if tool is None:
        raise ToolNotFound("g++", "to compile the operators of a CPU's file", FIX)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(home) / "lmaunet-deploy" / f"operators-{_digest(tool)}" / LIBRARY
    return path if path.is_file() else build_library(path)


@functools.cache
def _digest(tool: str) -> str:
    """Return what the library depends on, as a hash: sources, options, compiler, processor."""
    digest = hashlib.sha256()
    for text in (
        tool,
        _output(tool, "--version"),
        platform.machine(),
        repr(FLAGS),
        repr(VARIANTS),
        repr(DOT_PRODUCTS),
    ):
        digest.update(text.encode())
    for source in sorted(SOURCES.iterdir()):
        if source.suffix in (".cpp", ".hpp"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
