"""A network that its trainer's own code builds, in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import foreign_tree
import numpy as np
import pytest
import torch

from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.sources import absent, foreign, foreign_worker
from lmaunet.sources.checkpoint import NNUNET, restore
from lmaunet.sources.nnunet import import_network, read_nnunet
from lmaunet.sources.nnunet_code import find_trainer, make

END = "return heads if self.deep_supervision else heads[0]"
TRAINERS = "nnunetv2/training/nnUNetTrainer"


@pytest.fixture
def code(tmp_path):
    return foreign_tree.write_tree(tmp_path / "theirs")


@pytest.fixture
def results(tmp_path, code):
    return foreign_tree.write_results(tmp_path / foreign_tree.NAME, code)


def request_of(found, **changed):
    """What the process is asked for, from a folder that was read."""
    kept = {}

    def keep(request, evidence, progress):
        kept["request"] = request
        raise KeyError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyError):
        patch.setattr("lmaunet.sources.nnunet.run_foreign", keep)
        import_network(found, Path("nowhere") / "network.pt")
    content = kept["request"].to_json()
    content["arguments"].update(changed)
    return content


def answered(request, folder):
    """Do in this process what the other one does."""
    try:
        return foreign_worker._captured(request, folder, lambda **content: None)
    except BaseException as error:
        return foreign_worker._error(error, Path(request["code"]))


def test_from_a_trainer_of_its_own_to_a_checkpoint(tmp_path, code, results, here):
    """The network, built once more by its code, gives what the checkpoint's graph gives."""
    found = read_nnunet(results, code=code)
    assert found.module is None and found.code.file.name == "two_way.py"
    said = []
    written = import_network(found, tmp_path / "run" / "import" / "network.pt", said.append)
    assert written.network == "TwoWayNet" and written.agreement.passed
    assert written.notices[0].endswith("(deep supervision): decoder.seg_layers.0")
    assert "building its network" in said
    loaded = load_checkpoint(written.path)
    assert loaded.notes[NNUNET]["network"] == "TwoWayNet"
    assert loaded.notes[NNUNET]["trainer"] == foreign_tree.TRAINER
    assert loaded.notes["classes"] == ["background", "liver", "left kidney"]
    assert "nnunetv2" not in sys.modules and not list(code.rglob("__pycache__"))
    request = request_of(found)
    sys.path.insert(0, str(code))
    from lmaunet.graph.stand_ins import stand_ins
    from lmaunet.sources.absent import without_absent

    with stand_ins():
        theirs = without_absent(
            lambda: make(request["arguments"]), lambda name: name.startswith("nnunetv2")
        ).eval()
    state = torch.load(found.checkpoint, weights_only=False)["network_weights"]
    theirs.load_state_dict(state)
    image = torch.randn(2, 2, 16, 24)
    with torch.no_grad():
        expected, got = theirs(image), restore(loaded, written.path)(image)
    assert got.shape == (2, 3, 16, 24)
    assert (got - expected).abs().max() <= 2**-16 * expected.abs().max()


@pytest.mark.parametrize(
    ("lines", "limit", "said"),
    [
        ("import os; os._exit(7)", 60, r"ended its process with status 7 while building its net"),
        ("import os; os.kill(os.getpid(), 9)", 60, "ended its process by SIGKILL while building"),
        pytest.param(
            "import time; print('so slow')\nwhile True: time.sleep(0.01)", 25,
            r"stopped after 25 s while building its network at .*nets/two_way.py:3 .*: so slow\)",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_code_that_ends_or_hangs(tmp_path, code, results, monkeypatch, lines, limit, said):
    """A process that the code started goes with it."""
    child = (
        "import subprocess\n"
        f"started = subprocess.Popen(['sleep', '600'])\nopen({str(tmp_path / 'pid')!r}, 'w')"
        ".write(str(started.pid))\n"
    ).replace("\n", ";").rstrip(";")  # fmt: skip
    (code / "nnunetv2/nets/two_way.py").write_text(f"{child}\n{lines}\n")
    monkeypatch.setattr(foreign, "BUILD_LIMIT_S", float(limit))
    with pytest.raises(UserError, match=said) as caught:
        import_network(read_nnunet(results, code=code), tmp_path / "run" / "network.pt")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if (
            not Path(f"/proc/{pid}").exists()
            or "(sleep) Z" in Path(f"/proc/{pid}/stat").read_text()
        ):
            break
        time.sleep(0.05)
    else:
        os.kill(pid, 9)
        pytest.fail("the code's own process is left")


def test_an_interrupted_command_leaves_no_process(tmp_path, code, results):
    place = tmp_path / "pid"
    (code / "nnunetv2/nets/two_way.py").write_text(
        f"import os, time\nopen({str(place)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )

    def stop(text):
        if place.is_file() and place.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_network(read_nnunet(results, code=code), tmp_path / "run" / "network.pt", stop)
    assert not Path(f"/proc/{place.read_text()}").exists() and not (tmp_path / "run").exists()


def test_a_folder_of_the_code_may_have_the_name_of_a_package_in_use(tmp_path, here, monkeypatch):
    """Modules that were there before stay; those of the code are imported anew."""
    (tmp_path / "numpy").mkdir()
    (tmp_path / "theirs.py").write_text("import numpy\nimport package_of_nobody\n")
    sys.path.insert(0, str(tmp_path))
    runs = []

    def make():
        runs.append("theirs" in sys.modules)
        import theirs

        return theirs.package_of_nobody.anything

    owned = foreign_worker._owned_by(str(tmp_path))
    with pytest.raises(ToolNotFound, match=r"uses package_of_nobody\.anything") as caught:
        absent.without_absent(lambda: make()(), owned)
    assert runs == [False, False] and sys.modules["numpy"] is np and caught.value.exit_status == 3


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("two_way", "x = 1\nraise ValueError('no\\nluck')\n",
         r"raised ValueError: no at .*two_way.py:2 \(raise ValueError.*; run it by itself"),
        ("two_way", "def f(:\n", r"raised SyntaxError: .* at .*two_way.py:1"),
        ("two_way", "import sys\nsys.exit('bye')\n", r"raised SystemExit: bye at .*two_way.py:2"),
        ("two_way", "import nnunetv2.lost\n",
         r"raised ModuleNotFoundError: No module named 'nnunetv2.lost' at .*two_way.py:1"),
        ("two_way", "from torch import no_such_thing\n", r"raised ImportError: cannot import name"),
        ("two_way", "def TwoWayNet(*given):\n    return 5\n",
         "the trainer's code with plans.json gives a int, not a torch.nn.Module"),
        ("two_way", foreign_tree.NETWORK.replace("block(8, 4)", "block(8, 5)"),
         r"is of another network than the trainer's code with plans.json says: \d+ tensors"),
        ("two_way", foreign_tree.NETWORK.replace(END, "return torch.fft.fft2(heads[0]).real"),
         r"fft.*two_way.py:\d+ .*the graph has no operator for it"),
        ("two_way", foreign_tree.NETWORK.replace(
            "return heads if", "return heads if heads[0].sum() > 0 else heads[1] if"),
         r"can't trace TwoWayNet at .*two_way.py:\d+ for an input"),
    ],
)  # fmt: skip
def test_code_that_gives_no_such_network(tmp_path, code, results, here, file, text, said):
    (code / f"nnunetv2/nets/{file}.py").write_text(text)
    answer = answered(request_of(read_nnunet(results, code=code)), tmp_path)
    assert answer["kind"] == "UserError"
    import re

    assert re.search(said, answer["error"]), answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("from einops_of_nobody import rearrange as view", "ToolNotFound",
         "the Python package einops_of_nobody is missing: it is needed by the network's own code, "
         "which uses einops_of_nobody.rearrange; install it where this program runs: python -m"),
        ("from mamba_ssm import Mamba2 as view", "UserError", "cannot import name 'Mamba2'"),
        ("from mamba_ssm.modules.mamba2 import Mamba2 as view", "UserError",
         "the network uses mamba_ssm.modules.mamba2.Mamba2, and what stands in for mamba_ssm here "
         "has Mamba and selective_scan_fn"),
        ("from timm_of_nobody.layers import Block\nclass view(Block):\n    pass\n", "ToolNotFound",
         "timm_of_nobody.layers.Block"),
        ("import numba_of_nobody\n@numba_of_nobody.fast(level=3)\ndef view(x, *size):\n"
         "    return x.reshape(*size)\n", "ToolNotFound", "uses numba_of_nobody.fast"),
        ("import cupy_of_nobody\nview = 3 if cupy_of_nobody.READY else 4", "ToolNotFound",
         "cupy_of_nobody.READY"),
    ],
)  # fmt: skip
def test_a_network_that_needs_what_is_not_here(tmp_path, code, results, here, line, kind, said):
    """Each is used by the network itself, not only imported beside it."""
    text = foreign_tree.NETWORK.replace("from torch import nn\n", f"from torch import nn\n{line}\n")
    text = text.replace(
        "first = self.first(x)", "first = view(self.first(x), *x.shape[:1], 4, 16, 24)"
    )
    (code / "nnunetv2/nets/two_way.py").write_text(text)
    answer = answered(request_of(read_nnunet(results, code=code)), tmp_path)
    assert (answer["kind"], said in answer["error"]) == (kind, True), answer
    if kind == "ToolNotFound":
        error = foreign._error_of(answer, tmp_path, tmp_path)
        assert isinstance(error, ToolNotFound) and str(error) == answer["error"]


def test_a_graph_that_computes_something_else_is_told(tmp_path, code, results, here, monkeypatch):
    """The worker's answer becomes a Disagreement, with its evidence where it is asked for."""

    def wrong(shape):
        graph, weights = capture(*shape)
        first = next(name for name in weights if name.endswith("seg_layers.1.weight"))
        return graph, {**weights, first: np.ascontiguousarray(1.5 * weights[first])}

    from lmaunet.graph.capture import capture

    monkeypatch.setattr(foreign_worker, "capture", lambda *shape: wrong(shape))
    place = tmp_path / "work"
    place.mkdir()
    answer = answered(request_of(read_nnunet(results, code=code)), place)
    assert answer["kind"] == "Disagreement"
    error = foreign._error_of(answer, place, tmp_path / "evidence")
    assert isinstance(error, Disagreement) and "graph and module" in str(error)
    (saved,) = (tmp_path / "evidence").glob("*.npz")
    assert str(saved) in str(error)


def test_the_newer_signature_of_a_trainer_that_asks_itself(code, results, here):
    request = request_of(read_nnunet(results, code=code), trainer="nnUNetTrainerNewer")
    folder = Path(request["arguments"]["plans"])
    plans = json.loads(folder.read_text())
    plans["configurations"]["2d"] |= {
        "network_arch_class_name": "a.b.C", "network_arch_init_kwargs": {"n": 1},
        "network_arch_init_kwargs_req_import": ["x"],
    }  # fmt: skip
    folder.write_text(json.dumps(plans))
    assert answered(request, code)["network"] == "TwoWayNet"


def test_a_signature_that_is_not_known(code, results, here):
    request = request_of(read_nnunet(results, code=code), trainer="nnUNetTrainerOdd")
    answer = answered(request, code)
    assert "build_network_architecture of nnUNetTrainerOdd takes number_of_moons" in answer["error"]


def test_a_causal_convolution_stands_in(tmp_path):
    """Each channel sees its past, in the order in which taps are given."""
    from lmaunet.graph.stand_ins import causal_conv1d_fn, stand_ins

    x, weight, bias = torch.randn(2, 3, 7), torch.randn(3, 4), torch.randn(3)
    got = causal_conv1d_fn(x, weight, bias, "silu")
    past = torch.nn.functional.pad(x, (3, 0))
    sums = sum(past[..., tap : tap + 7] * weight[:, tap, None] for tap in range(4))
    expected = torch.nn.functional.silu(sums + bias[:, None])
    assert torch.allclose(got, expected, atol=1e-6)
    with pytest.raises(UserError, match="activation='gelu'; expected silu or None"):
        causal_conv1d_fn(x, weight, bias, "gelu")
    with stand_ins():
        import causal_conv1d

        assert causal_conv1d.causal_conv1d_fn is causal_conv1d_fn
    assert "causal_conv1d" not in sys.modules


def test_where_a_trainer_is(tmp_path, code):
    """The package may be given, or what holds it; nothing of it runs."""
    found = find_trainer(code, foreign_tree.TRAINER)
    assert found.root == code and found.module == f"{TRAINERS.replace('/', '.')}.variants.two_way"
    assert find_trainer(code / "nnunetv2", foreign_tree.TRAINER).module == found.module
    with pytest.raises(UserError, match=r"has no trainer nnUNetTrainerTwo, .* nnUNetTrainerTwoWay"):
        find_trainer(code, "nnUNetTrainerTwo")
    with pytest.raises(UserError, match="theirs in it does: give that folder"):
        find_trainer(tmp_path, foreign_tree.TRAINER)
    with pytest.raises(UserError, match="holds no nnunetv2/training/nnUNetTrainer; give the fold"):
        find_trainer(code / "nnunetv2" / "nets", foreign_tree.TRAINER)
    with pytest.raises(UserError, match="is no folder; give the folder that holds"):
        find_trainer(tmp_path / "lost", foreign_tree.TRAINER)
