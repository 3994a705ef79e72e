"""A network that nnU-Net v2 trained, from the folder in which its trainer left it.

The folder is ``nnUNet_results/DatasetXXX_NAME/TRAINER__PLANS__CONFIGURATION``, with plans.json,
dataset.json and a folder for each fold. For the trainers that come with nnU-Net no code of it runs:
the network is built from the plan by dynamic-network-architectures, which nnU-Net builds it with.
Other trainers' networks are built by their own code, once. The weights are read as data, and from
the capture on the network is a graph.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmaunet.data.dataset_json import DATASET_FILE, parse_dataset_json
from lmaunet.data.nnunet_recipe import NnunetRecipe
from lmaunet.data.user_json import is_whole, read_user_json, shown
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.graph.agreement import check_capture
from lmaunet.graph.capture import capture
from lmaunet.net.checkpoint import check_state
from lmaunet.net.checkpoint_file import read_file
from lmaunet.net.unwrapping import printable
from lmaunet.packages import install_extra
from lmaunet.sources.checkpoint import NNUNET
from lmaunet.sources.foreign import Captured, Request, run_foreign
from lmaunet.sources.imported import Imported, described, write
from lmaunet.sources.loading import load_strictly, lower_heads, unwrapped
from lmaunet.sources.nnunet_code import Trainer, find_trainer
from lmaunet.sources.nnunet_folds import held_out
from lmaunet.sources.nnunet_plans import PLANS_FILE, NnunetPlan, read_plan

CHECKPOINT = "checkpoint_final.pth"
ONE_TRAINING = f"give the checkpoint and the {PLANS_FILE} of one training"
FOLDER = "nnUNet_results/DatasetXXX_NAME/TRAINER__PLANS__2d"
BATCH_NORM = "nnUNetTrainerBN"
STOCK = re.compile(
    r"nnUNetTrainer(?:"
    r"Benchmark_5epochs(?:_noDataLoading)?|DA5(?:ord0|Segord0|_10epochs)?|NoDA"
    r"|_DASegOrd0(?:_NoMirroring)?|_noDummy2DDA|NoMirroring"
    r"|_onlyMirror01(?:_1500ep|_DASegOrd0|_DA5)?|_warmup"
    r"|CosAnneal|Adan(?:1en3|3en4|1en1|CosAnneal)?|(?:Vanilla)?Adam(?:1en3|3en4)?"
    r"|_\d+epochs?(?:_NoMirroring)?|DiceLoss|DiceCELoss_noSmooth|(?:Dice)?Top[kK]10Loss(?:LS01)?"
    r"|CELoss(?:_5epochs)?|NoDeepSupervision|BN|_probabilisticOversampling(?:_033|_010)?)?"
    r"|nnUNet_Trainer_BS8"
)
"""Trainers that come with nnU-Net and train the plan's network; BATCH_NORM its own norms in it."""


@dataclass(frozen=True)
class NnunetNetwork:
    """A trained network of nnU-Net's.

    Args:
        module: in evaluation mode, one output; None where only its trainer's code can build it.
        plan: what it was built by, with the checkpoint's mirroring axes.
        trainer, fold: what trained it, on which of the folds.
        checkpoint: the file.
        classes: names by index, the background first.
        channels: names, in the order of the network's channels.
        notices: what a user should know.
        folder: that it was read from.
        code: where the trainer's class is, where its code builds the network.
    """

    module: nn.Module | None
    plan: NnunetPlan
    trainer: str
    fold: str
    checkpoint: Path
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    notices: tuple[str, ...]
    folder: Path
    code: Trainer | None = None

    @property
    def recipe(self) -> NnunetRecipe:
        """How its images are prepared."""
        return self.plan.recipe

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"nnunet-{self.plan.dataset}-{self.plan.configuration}"


def read_nnunet(
    folder: Path,
    fold: str | None = None,
    checkpoint: str = CHECKPOINT,
    code: Path | None = None,
) -> NnunetNetwork:
    """Read a trained network; no code of its trainer runs.

    Args:
        folder: as FOLDER.
        fold: 0 to 4 mostly, or ``all``; not needed where one fold was trained.
        checkpoint: the file's name within the fold's folder.
        code: the folder of the package nnunetv2 whose trainer builds the network, where the plan
            alone does not say it.

    Raises:
        UserError: where something lacks, is of another training, or can't be deployed.
        ToolNotFound: without dynamic-network-architectures.
    """
    dataset = _dataset(folder)
    chosen, path = _checkpoint(folder, fold, checkpoint)
    content = read_file(path)
    trainer, configuration = _training(content, folder, chosen, path)
    if code is None and not STOCK.fullmatch(trainer):
        raise UserError(
            f"{path} was trained by {printable(trainer)}, which does not come with nnU-Net, so "
            "that its plan may not say its network; give --code DIR, the folder that holds the "
            "nnunetv2 which trained it: its code is then run once (docs/nnunet.md)"
        )
    theirs = None if code is None else find_trainer(code, trainer)
    classes, ignored, channels = _classes(dataset, folder / DATASET_FILE)
    plan = read_plan(folder / PLANS_FILE, configuration, len(channels), network=theirs is None)
    _check_plan(content, plan, path)
    mirror = _mirror_axes(content.get("inference_allowed_mirroring_axes"), path)
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, mirror_axes=mirror))
    state = content["network_weights"]
    check_state(path, state)
    notices = []
    if ignored:
        notices.append(f"label {ignored} is for training alone: the network has no output for it")
    module = None
    if theirs is None:
        if trainer == BATCH_NORM:
            norm = {"norm_op": "BatchNorm2d", "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
            plan = dataclasses.replace(plan, arguments={**plan.arguments, **norm})
        with torch.device("meta"):
            module = build(plan, len(channels), len(classes)).eval()
        load_strictly(module, unwrapped(state), path, maker=PLANS_FILE, remedy=ONE_TRAINING)
        notices = [*lower_heads(module.state_dict()), *notices]
    return NnunetNetwork(
        module, plan, trainer, chosen, path, classes, channels, tuple(notices), folder, theirs
    )


def _dataset(folder: Path) -> Any:
    """Return the content of dataset.json; raises UserError where the folder is another one."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one such as {FOLDER}")
    lacking = [name for name in (PLANS_FILE, DATASET_FILE) if not (folder / name).is_file()]
    if lacking:
        inside = sorted(
            found.parent.name
            for found in [*folder.glob(f"*/{PLANS_FILE}"), *folder.glob(f"*/*/{PLANS_FILE}")]
        )
        above = folder.name.startswith("fold_") and (folder.parent / PLANS_FILE).is_file()
        here = f"; it has {', '.join(inside[:5])}: give one of these" if inside else ""
        raise UserError(
            f"{folder} has no {' and no '.join(lacking)}"
            + (f"; give the folder above, {folder.parent}" if above else here)
            + (
                f"; expected a folder that nnUNetv2_train wrote, such as {FOLDER}"
                if not (inside or above)
                else ""
            )
        )
    return read_user_json(folder / DATASET_FILE)


def _checkpoint(folder: Path, fold: str | None, name: str) -> tuple[str, Path]:
    """Return the fold and its checkpoint."""
    there = sorted(
        path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir()
    )
    if not there:
        raise UserError(f"{folder} has no fold_0 or other fold; train one: nnUNetv2_train")
    named = ", ".join(there)
    if fold is None and len(there) > 1:
        raise UserError(
            f"{folder} has the folds {named}; one network is deployed, not the mean of several: "
            f"choose one, such as --fold {there[0]}"
        )
    chosen = there[0] if fold is None else fold
    if chosen not in there:
        raise UserError(f"{folder} has no fold {shown(chosen)}; it has {named}: give one of these")
    path = folder / f"fold_{chosen}" / name
    if Path(name).name != name or not path.is_file():
        files = sorted(file.name for file in path.parent.glob("*.pth")) if path.parent else []
        raise UserError(
            f"{folder / f'fold_{chosen}'} has no {name}; "
            + (
                f"it has {', '.join(files)}: give one by --checkpoint"
                if files
                else "it has no checkpoint; finish its training, or copy the file there"
            )
        )
    return chosen, path


def _training(content: Any, folder: Path, fold: str, path: Path) -> tuple[str, str]:
    """Return the trainer and the configuration that a checkpoint names, held to its folder."""
    said = content.get("init_args") if isinstance(content, Mapping) else None
    trainer = content.get("trainer_name") if isinstance(content, Mapping) else None
    configuration = said.get("configuration") if isinstance(said, Mapping) else None
    weights = content.get("network_weights") if isinstance(content, Mapping) else None
    if not isinstance(trainer, str) or not isinstance(configuration, str) or weights is None:
        raise UserError(
            f"{path} is no checkpoint of nnU-Net v2: it has no network_weights, trainer_name and "
            "init_args with a configuration; give a file that nnUNetv2_train wrote"
        )
    parts = folder.resolve().name.split("__")
    if len(parts) == 3 and (parts[0], parts[2]) != (trainer, configuration):
        raise UserError(
            f"{path} was trained by {printable(trainer)} in configuration "
            f"{printable(configuration)}; its folder is of {parts[0]} and {parts[2]}: give the "
            "file in the folder where nnUNetv2_train left it"
        )
    trained_on = said.get("fold") if isinstance(said, Mapping) else None
    if isinstance(trained_on, (int, str)) and str(trained_on) != fold:
        raise UserError(
            f"{path} was trained on fold {printable(str(trained_on))}, and is in fold_{fold}; give "
            "the file in the folder where nnUNetv2_train left it"
        )
    return trainer, configuration


def _check_plan(content: Mapping[str, Any], plan: NnunetPlan, path: Path) -> None:
    """Raise UserError where a checkpoint names another plan or data set than plans.json."""
    said = content["init_args"].get("plans")
    if not isinstance(said, Mapping):
        return
    for key, own in (("plans_name", plan.name), ("dataset_name", plan.dataset)):
        theirs = said.get(key, own)
        if theirs != own:
            raise UserError(
                f"{path} was trained with {key} {shown(theirs)}; {PLANS_FILE} says {own!r}: "
                f"{ONE_TRAINING}"
            )


def _classes(content: Any, path: Path) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """Return the classes' names, that of the ignore label or "", and the channels' names."""
    labels = content.get("labels") if isinstance(content, dict) else None
    ignored = ""
    if isinstance(labels, dict):
        regions = [name for name, value in labels.items() if isinstance(value, list)]
        if regions or content.get("regions_class_order"):
            raise UserError(
                f"{path} has regions, {', '.join(map(shown, regions[:3])) or 'in an order'}: the "
                "network has overlapping outputs, each by a sigmoid, and one class for a pixel is "
                "deployed here; train on labels without regions"
            )
        if "ignore" in labels:
            ignored = "ignore"
            content = {**content, "labels": {k: v for k, v in labels.items() if k != "ignore"}}
    found = parse_dataset_json(
        {**content, "dataset": None} if labels is not None else content, path
    )
    return found.classes, ignored, found.channels


def _mirror_axes(axes: Any, path: Path) -> tuple[int, ...]:
    found = () if axes is None else axes
    if not isinstance(found, (list, tuple)) or not all(is_whole(a) and a in (0, 1) for a in found):
        raise UserError(
            f"{path} mirrors along the axes {shown(axes)}; expected 0 and 1 for a 2-D network; "
            "give the checkpoint of a 2-D configuration"
        )
    return tuple(sorted(set(found)))


def build(plan: NnunetPlan, channels: int, classes: int) -> nn.Module:
    """Return a plan's network with random weights, on torch's default device.

    Raises:
        UserError: where the class refuses the plan's arguments.
        ToolNotFound: without dynamic-network-architectures.
    """
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise ToolNotFound(
            "the Python package dynamic-network-architectures",
            "to build nnU-Net's networks",
            install_extra("nnunet"),
        ) from error
    given = dict(plan.arguments)
    for name in ("conv_op", "norm_op", "dropout_op", "nonlin"):
        if given.get(name) is not None:
            given[name] = getattr(nn, given[name])
    try:
        made: nn.Module = getattr(unet, plan.network)(
            input_channels=channels, num_classes=classes, deep_supervision=False, **given
        )
    # the class asserts, indexes and multiplies what it is given
    except Exception as error:
        raise UserError(
            f"{plan.network} can't be built as {PLANS_FILE} says ({type(error).__name__}: "
            f"{str(error)[:200]}); give the plan that the network was trained with"
        ) from error
    return made


def import_network(
    network: NnunetNetwork, path: Path, progress: Callable[[str], None] = lambda text: None
) -> Imported:
    """Capture a network, hold the graph to it, and write it as a checkpoint of this program.

    The checkpoint's notes have the ``classes`` and, under NNUNET, how images are prepared and what
    trained it. What both computed is saved beside ``path`` where they disagree. Where the network
    has a ``code``, that is run, in a process of its own.

    Raises:
        UserError: where the network has an operator that no graph has, or its code gives none.
        ToolNotFound: where its code needs a package that is not here.
        Disagreement: where the graph computes something else.
    """
    plan = network.plan
    captured = _captured(network, path.parent, progress)
    described(captured.graph, network.name, network.classes)
    cases = held_out(network.checkpoint, plan.dataset)
    note: dict[str, Any] = {
        "recipe": plan.recipe.to_json(),
        "dataset": plan.dataset,
        "plans": plan.name,
        "configuration": plan.configuration,
        "trainer": network.trainer,
        "fold": network.fold,
        "checkpoint": network.checkpoint.name,
        "network": captured.network,
        "channels": list(network.channels),
        "held_out": None if cases is None else list(cases),
    }
    return write(
        captured.graph, captured.weights, captured.agreement, captured.network, path,
        name=network.name, classes=network.classes,
        notices=(*captured.notices, *network.notices), **{NNUNET: note},
    )  # fmt: skip


def _captured(network: NnunetNetwork, evidence: Path, progress: Callable[[str], None]) -> Captured:
    plan, code = network.plan, network.code
    shape = (1, len(network.channels), *plan.recipe.patch_size)
    if network.module is not None:
        graph, weights = capture(network.module, shape)
        evidence.mkdir(parents=True, exist_ok=True)
        agreement = check_capture(network.module, graph, weights, evidence=evidence)
        return Captured(graph, weights, agreement, plan.network)
    assert code is not None
    arguments = {
        "module": code.module,
        "trainer": code.name,
        "plans": str((network.folder / PLANS_FILE).absolute()),
        "dataset": str((network.folder / DATASET_FILE).absolute()),
        "configuration": plan.configuration,
        "channels": len(network.channels),
        "classes": len(network.classes),
    }
    request = Request("nnunet", code.root, network.checkpoint, shape, arguments)
    return run_foreign(request, evidence, progress)
