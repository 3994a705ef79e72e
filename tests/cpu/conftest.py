"""The library of operators, as it is and of changed sources."""

import shutil
import sys
from pathlib import Path

import pytest

from lmaunet.cpu import operators

sys.path.append(str(Path(__file__).parents[1] / "export"))


@pytest.fixture(scope="module")
def library():
    return operators.cached_library()


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compile the library from changed sources, or with more options."""

    def make(name, *, change=None, options=()):
        folder = tmp_path_factory.mktemp(name)
        sources = shutil.copytree(operators.SOURCES, folder / "native")
        if change is not None:
            file, right, wrong = change
            text = (sources / file).read_text()
            assert text.count(right) == 1
            (sources / file).write_text(text.replace(right, wrong))
            options = (*options, "-O0")  # what is wrong at once needs no speed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(operators, "SOURCES", sources)
            patch.setattr(operators, "FLAGS", (*operators.FLAGS, *options))
            return operators.build_library(folder / operators.LIBRARY)

    return make
