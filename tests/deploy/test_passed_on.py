"""Every option of every command: its names, its default, and that what is given gets where it is
used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from command_line import runner

from lmaunet.deploy import (
    cli,
    commands,
    console,
    data_commands,
    describe,
    doctor,
    heatmap,
    importing,
    pretraining,
    quantizing,
)
from lmaunet.deploy.confidence_map import MapOptions
from lmaunet.deploy.heatmap import HeatmapOptions
from lmaunet.deploy.importing import ImportOptions
from lmaunet.deploy.infer_command import ArchiveOptions, InferOptions
from lmaunet.deploy.quantizing import QatOptions
from lmaunet.deploy.runs import DataSource
from lmaunet.kernel_profiles import elastic_spec
from lmaunet.spec import named_spec
from lmaunet.stated_spec import state_spec
from lmaunet.train.masking import Masking
from lmaunet.train.schedule import Schedule

NEEDED = "has to be given"
DATA = {"--data": None, "--phantom": False, "--class-map": None}
SIZES = {"--classes": None, "--channels": None, "--input-size": None}
OPTIONS = {
    "": {"--version": False, "--install-completion": None, "--show-completion": None},
    "doctor": {"--json": False},
    "data": {},
    "data fetch": {"--to": Path("calibration_data"), "--phantom": False},
    "data info": {**DATA, "--json": False},
    "data fuse": {"folder": NEEDED, "--output -o": NEEDED, "--register": False, "--json": False},
    "spec": {"name": NEEDED, "--json": False},
    "import": {
        "source": NEEDED, "--fold": None, "--checkpoint": None, "--code": None, "--module": None,
        "--arguments": None, "--input-size": None, "--channels": None, "--class-names": None,
        "--run -o": None, "--json": False,
    },
    "train": {
        **DATA, **SIZES, "--spec": "demo", "--run": None, "--epochs": 75, "--learning-rate": 3e-3,
        "--batch-size": 8, "--elastic": False, "--init": None, "--drop-modality": 0.0,
        "--seed": 0, "--json": False,
    },
    "pretrain": {
        **SIZES, "--data": NEEDED, "--spec": "demo", "--run": None, "--mask-block": 16,
        "--mask-share": 0.6, "--epochs": 50, "--learning-rate": 3e-3, "--batch-size": 8,
        "--seed": 0, "--json": False,
    },
    "qat": {
        **DATA, **SIZES, "--ckpt": NEEDED, "--run": None, "--spec": None, "--weights": None,
        "--bits": None, "--budget-mb": None, "--scales": "free", "--distill": 0.0,
        "--joins": "", "--norm": "keep", "--norm-epochs": 8, "--keep-norms --fold-norms": True,
        "--dropout": 0.0, "--drop-modality": None, "--max-drop": None, "--explain": False,
        "--epochs": 8, "--learning-rate": 1e-4, "--batch-size": 8, "--seed": 0,
        "--json": False,
    },
    "heatmap": {
        "images": NEEDED, "--class": NEEDED, "--output -o": NEEDED, "--ckpt": None, "--run": None,
        "--data": None, "--stage": None, "--pixels": "mask", "--quantized": False,
        "--overlap": 0.5, "--batch": 4, "--json": False,
    },
    "export": {"--run": None, "--lowering": None, "--json": False},
    "build": {
        "--target": NEEDED, "--run": None, "--sm": None, "--precision": None, "--board": None,
        "--clock-mhz": None, "--target-ms": None, "--simulate": False, "--cpu": None,
        "--operators --no-operators": None, "--flow": None, "--kernel": None, "--json": False,
    },
    "measure": {"--target": None, "--run": None, "--json": False},
    "infer": {
        "images": NEEDED, "--build": NEEDED, "--output -o": NEEDED, "--overlap": 0.5, "--batch": 4,
        "--tta": False, "--kernel": "auto", "--confidence": None, "--samples": None, "--seed": None,
        "--crf": False, "--fuse": "", "--missing": None, "--workers": None, "--scheduler": "",
        "--format": "", "--json": False,
    },
    "refine": {
        "image": NEEDED, "mask": NEEDED, "--scribbles": NEEDED, "--output -o": NEEDED,
        "--build": None, "--channel": None, "--background": 255, "--margin": 15.0, "--json": False,
    },
    "bench": {"--build": NEEDED, "--json": False},
    "report": {"--run": None, "--baseline": None, "--strict": False, "--gate": None,
               "--json": False},
    "demo": {"--run": Path("runs/demo"), "--phantom": False, "--seed": 0, "--json": False},
}  # fmt: skip
SPOKEN = {"--verbose -v": False, "--quiet -q": False}
"""What each command has, and what stands before it."""
SEVERAL = {
    "heatmap images", "build --sm", "report --gate", "infer images", "refine --channel",
    "infer --missing",
}  # fmt: skip


def every_command():
    found = {}

    def add(name, group):
        found[name] = group
        for inner, command in getattr(group, "commands", {}).items():
            add(f"{name} {inner}".strip(), command)

    add("", typer.main.get_command(cli.app))
    return found


def test_every_option_of_every_command_and_its_default():
    found, several = {}, set()
    for name, command in every_command().items():
        found[name] = {}
        for option in command.params:
            names = " ".join([*option.opts, *option.secondary_opts])
            found[name][names] = NEEDED if option.required else option.default
            if getattr(option, "multiple", False) or option.nargs == -1:
                several.add(f"{name} {names}")
    assert found == {
        name: wanted | (SPOKEN if name != "data" else {}) for name, wanted in OPTIONS.items()
    }
    assert several == SEVERAL


def test_the_options_that_are_not_typed_are_the_commands_defaults():
    typed = {name.partition(" ")[0]: value for name, value in OPTIONS["qat"].items()}
    plain = QatOptions()
    for option, field in (
        ("--epochs", "epochs"), ("--learning-rate", "learning_rate"), ("--seed", "seed"),
        ("--batch-size", "batch_size"), ("--bits", "bits"), ("--budget-mb", "budget_mb"),
        ("--scales", "scales"), ("--distill", "distillation"), ("--keep-norms", "keep_norms"),
        ("--explain", "explain"), ("--weights", "weights"), ("--joins", "joins"),
        ("--norm", "norm"), ("--norm-epochs", "norm_epochs"), ("--dropout", "dropout"),
        ("--drop-modality", "drop_modality"), ("--max-drop", "max_drop"),
    ):  # fmt: skip
        assert getattr(plain, field) == typed[option], option


PLACES = {
    "doctor": (doctor, "examine"), "data fetch": (data_commands, "fetch"),
    "data info": (data_commands, "info"), "data fuse": (data_commands, "fuse"),
    "spec": (describe, "describe"),
    "train": (commands, "train"), "pretrain": (pretraining, "pretrain"),
    "heatmap": (heatmap, "heatmap"),
    "qat": (quantizing, "qat"), "export": (commands, "export"),
    "build": (commands, "build"), "measure": (commands, "measure"), "infer": (commands, "infer"),
    "refine": (commands, "refine"), "report": (commands, "report"), "demo": (commands, "demo"),
    "import": (importing, "import_from"), "bench": (commands, "bench"),
}  # fmt: skip
WITH_A_STATUS = ("doctor", "qat", "infer", "report", "demo")
DEMO = named_spec("demo")
SMALL = state_spec("edge", 5, 3, 64)
OWN = DataSource(Path("d"), Path("m.json"))
CALLS = [
    ("doctor", "", ()),
    ("data fetch", "", (Path("calibration_data"), False)),
    ("data fetch", "--to x --phantom", (Path("x"), True)),
    ("data info", "", (None,)),
    ("data info", "--phantom", (DataSource(None),)),
    ("data info", "--data d --class-map m.json", (OWN,)),
    ("data fuse", "d -o e", (Path("d"), Path("e"), False)),
    ("data fuse", "d --output e --register", (Path("d"), Path("e"), True)),
    ("spec", "edge", ("edge",)),
    ("bench", "--build b", (Path("b"),)),
    ("import", "f", (Path("f"), ImportOptions(), None)),
    ("import", "f --fold 2 --checkpoint c --code d -o r",
     (Path("f"), ImportOptions("2", "c", Path("d")), Path("r"))),
    ("import", "f --module m:n --arguments {} --input-size 8x9 --channels 2 --class-names a,b",
     (Path("f"), ImportOptions(module="m:n", arguments="{}", input_size="8x9", channels=2,
                               class_names="a,b"), None)),
    ("train", "", (None, DEMO, None, 75, 3e-3, 8, 0, None, 0.0)),
    (
        "train", "--spec edge --classes 5 --channels 3 --input-size 64 --data d --class-map m.json "
        "--run r --epochs 6 --learning-rate 0.5 --batch-size 2 --elastic --seed 9 "
        "--init i --drop-modality 0.3",
        (Path("r"), elastic_spec(SMALL.for_training()), OWN, 6, 0.5, 2, 9, Path("i"), 0.3),
    ),
    ("heatmap", "a --class c -o m",
     (None, None, None, [Path("a")], "c", Path("m"), HeatmapOptions())),
    (
        "heatmap", "a b --class c --output m --ckpt k --run r --data d --stage s --pixels all "
        "--quantized --overlap 0.25 --batch 7",
        (Path("r"), Path("k"), Path("d"), [Path("a"), Path("b")], "c", Path("m"),
         HeatmapOptions("s", "all", True, 0.25, 7)),
    ),
    ("pretrain", "--data d",
     (None, DEMO, Path("d"), Schedule(50, 3e-3, 8), Masking(16, 0.6), 0)),
    (
        "pretrain", "--spec edge --classes 5 --channels 3 --input-size 64 --data d --run r "
        "--mask-block 8 --mask-share 0.5 --epochs 6 --learning-rate 0.5 --batch-size 2 --seed 9",
        (Path("r"), SMALL.for_training(), Path("d"), Schedule(6, 0.5, 2), Masking(8, 0.5), 9),
    ),
    ("qat", "--ckpt c", (None, Path("c"), None, state_spec(None), QatOptions())),
    (
        "qat", "--ckpt c --spec edge --classes 5 --channels 3 --input-size 64 --phantom --run r "
        "--weights w --bits 4 --budget-mb 1.5 --scales pow2 --distill 0.25 --fold-norms --explain "
        "--joins scaled --norm batch --norm-epochs 3 --dropout 0.3 --drop-modality 0.25 "
        "--max-drop 0.5 --epochs 6 --learning-rate 0.5 --batch-size 2 --seed 9",
        (Path("r"), Path("c"), DataSource(None), SMALL,
         QatOptions(6, 0.5, 2, 9, "4", 1.5, "pow2", 0.25, False, True, "w",
                    "scaled", "batch", 3, 0.3, 0.25, 0.5)),
    ),
    ("qat", "--ckpt c --keep-norms", (None, Path("c"), None, state_spec(None), QatOptions())),
    ("train", "--phantom", (None, DEMO, DataSource(None), 75, 3e-3, 8, 0, None, 0.0)),
    ("qat", "--ckpt c --data d --class-map m.json",
     (None, Path("c"), OWN, state_spec(None), QatOptions())),
    ("export", "", (None, None)),
    ("export", "--run r --lowering l", (Path("r"), "l")),
    ("build", "--target x", (None, "x", ("x", {}))),
    (
        "build", "--target x --run r --sm a --sm b --precision p --board z --clock-mhz 7 "
        "--target-ms 3 --simulate --cpu c --operators --flow f --kernel k",
        (Path("r"), "x", ("x", {
            "sm": ["a", "b"], "precision": "p", "board": "z", "clock_mhz": 7.0, "target_ms": 3.0,
            "simulate": True, "cpu": "c", "operators": True, "flow": "f", "kernel": "k"})),
    ),
    ("build", "--target x --no-operators", (None, "x", ("x", {"operators": False}))),
    ("measure", "", (None, None)),
    ("measure", "--run r --target t", (Path("r"), "t")),
    ("infer", "a --build b -o c.nii",
     (Path("b"), [Path("a")], Path("c.nii"), InferOptions(), None)),
    ("infer", "a --build b -o c", (Path("b"), [Path("a")], Path("c"), InferOptions(),
                                   ArchiveOptions())),
    ("infer", "a --build b -o c --workers 3 --scheduler s --format .mha --crf",
     (Path("b"), [Path("a")], Path("c"), InferOptions(crf=True), ArchiveOptions(3, "s", ".mha"))),
    ("infer", "a e --build b --output c.nii --overlap 0.25 --batch 7 --tta --kernel 7 "
     "--confidence m --samples 5 --seed 3 --crf --fuse f --missing 3 --missing 4",
     (Path("b"), [Path("a"), Path("e")], Path("c.nii"),
      InferOptions(0.25, 7, True, MapOptions(Path("m"), 5, 3), 7, True, "f", (3, 4)), None)),
    ("refine", "a m --scribbles s -o c",
     ([Path("a")], Path("m"), Path("s"), Path("c"), None, 255, 15.0)),
    ("refine", "a m --scribbles s --output c --build b --channel e --channel f --background 9 "
     "--margin 3.5",
     ([Path("a"), Path("e"), Path("f")], Path("m"), Path("s"), Path("c"), Path("b"), 9, 3.5)),
    ("infer", "a - --build b -o c.nii",
     (Path("b"), [Path("a"), Path("-")], Path("c.nii"), InferOptions(), None)),
    ("report", "", (None, None, False, ())),
    ("report", "--run r --baseline b --strict --gate g --gate h",
     (Path("r"), Path("b"), True, ["g", "h"])),
    ("demo", "", (Path("runs/demo"), False, 0)),
    ("demo", "--run r --phantom --seed 9", (Path("r"), True, 9)),
]  # fmt: skip


@pytest.mark.parametrize("command", PLACES)
def test_each_command_is_called_without_options_and_with_all(command):
    given = " ".join(words for name, words, _ in CALLS if name == command).split()
    own = [name.split() for name in OPTIONS[command] if name.startswith("-") and name != "--json"]
    assert [names for names in own if not set(names) & set(given)] == []


@pytest.mark.parametrize(("command", "words", "wanted"), CALLS)
def test_what_is_given_is_passed_on(monkeypatch, capsys, tmp_path, command, words, wanted):
    monkeypatch.chdir(tmp_path)
    calls = []
    status = 1 if command in WITH_A_STATUS else 0

    def work(*given):
        calls.append(given)
        return ({"n": 5}, ["a", "b"], status)[: 3 if status else 2]

    monkeypatch.setattr("lmaunet.deploy.targets.build_options", lambda name, given: (name, given))
    monkeypatch.setattr(*PLACES[command], work)
    run = runner(monkeypatch, capsys)
    given = [*command.split(), *words.split()]
    assert run(*given) == (status, "a\nb\n", "") and calls == [wanted]
    if "--json" in OPTIONS[command]:
        found, out, _ = run(*given, "--json")
        assert (found, json.loads(out)) == (status, {"n": 5}) and calls == [wanted, wanted]


@pytest.mark.parametrize(
    ("seed", "status"), [("0", 0), ("-1", 2), (str(2**63 - 1), 0), (str(2**63), 2)]
)
@pytest.mark.parametrize("command", ["train", "pretrain --data d", "qat --ckpt c", "demo"])
def test_a_seed_is_a_number_of_63_bits(monkeypatch, capsys, tmp_path, command, seed, status):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(*PLACES[command.split()[0]], lambda *given: ({}, [], 0)[:length])
    length = 3 if command.split()[0] in WITH_A_STATUS else 2
    found, _, err = runner(monkeypatch, capsys)(*command.split(), "--seed", seed)
    assert found == status and ("--seed" in err) == (status == 2)


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize(
    ("words", "shown"),
    [((), (False, False)), (("-q",), (True, False)), (("--quiet",), (True, False)),
     (("-v",), (False, True)), (("--verbose",), (False, True)), (("-q", "-v"), (True, True))],
)  # fmt: skip
def test_how_much_is_shown_may_stand_before_a_command_or_after(
    monkeypatch, capsys, tmp_path, words, shown, before
):
    monkeypatch.chdir(tmp_path)
    seen = []

    def work(*given):
        seen.append((console._quiet, console._verbose))
        return {}, []

    monkeypatch.setattr(commands, "measure", work)
    try:
        found = runner(monkeypatch, capsys)(*(*words, "measure") if before else ("measure", *words))
    finally:
        console.choose_output(quiet=False, verbose=False)
    assert found[0] == 0 and seen == [shown]
