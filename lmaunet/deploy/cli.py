"""The command ``lmaunet-deploy``. Each command imports what it needs when it runs."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Optional

from lmaunet.deploy import console, defaults
from lmaunet.deploy.targets import all_targets
from lmaunet.kernel_profiles import elastic_spec
from lmaunet.spec import SPECS

try:
    import typer

    from lmaunet.deploy import (
        heatmap_command,
        import_command,
        infer_command,
        pretrain_command,
        refine_command,
    )
    from lmaunet.deploy.command_options import command, offer
    from lmaunet.deploy.target_flags import takes_target_options
except ImportError as lacking:  # a half-finished installation gets its one line too
    found = console.explain(lacking)
    if found is None:
        raise
    print(f"lmaunet-deploy: {found[0]}", file=sys.stderr)
    raise SystemExit(found[1]) from None

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False,
    rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]},
    help="Take a trained LMa-UNet to TensorRT, FPGA and CPU, and report what it costs. "
    "Exit status: 0 good; 1 a gate or an agreement failed, or a fault of this program; 2 bad "
    "usage or input; 3 a tool or a Python package is missing; 130 interrupted.",
)  # fmt: skip
data_app = typer.Typer(no_args_is_help=True, help="Get or describe the example CT.")
app.add_typer(data_app, name="data")

# typer reads these annotations at run time and understands Optional, not X | None, as an option
RunOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--run", help="The run's folder; the newest under runs/ if not given."),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help=f"One of: {', '.join(all_targets())}.",
        autocompletion=offer(*all_targets()),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data", help="Images and labels: a folder or an .npz (see the README)."),
]
PhantomOption = Annotated[bool, typer.Option("--phantom", help="Use a synthetic abdomen instead.")]
ClassMapOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--class-map", help="JSON that maps label values to class names."),
]
SPEC_HELP = (
    "base, edge, demo, edge3d, unet, unet-large-kernel, unet-mamba, or a JSON file with a spec's "
    "fields."
)
ClassesOption = Annotated[Optional[int], typer.Option(help="Classes with background.")]  # noqa: UP045
ChannelsOption = Annotated[Optional[int], typer.Option(help="Image channels.")]  # noqa: UP045
InputSizeOption = Annotated[Optional[int], typer.Option(help="Height and width.")]  # noqa: UP045
SeedOption = Annotated[int, typer.Option("--seed", help="Random seed.", min=0, max=2**63 - 1)]


def _open_standard_streams() -> None:
    """Open what was closed at the start: a file of ours must not take its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def main() -> None:
    """Run the command line; exits with the documented status."""
    _open_standard_streams()
    # How long a thread of GNU OpenMP spins for work before it sleeps. A training step of the demo
    # on two idle cores took 0.31 s with the default of 300,000, 0.33 s with this and 0.7 s without
    # spinning; beside two busy processes 1.2 s, 0.9 s and 1.0 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for stream in (sys.stdout, sys.stderr):
        # a terminal that knows ASCII only gets question marks, not an exception
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # what concerns a user is an error of ours; the libraries' notes on themselves are not
    warnings.simplefilter("ignore")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    console.choose_output(quiet=False, verbose=False)

    def call() -> int:
        try:
            status = int(app(standalone_mode=False, prog_name="lmaunet-deploy") or 0)
        except typer.Exit as stop:
            status = stop.exit_code
        except typer.Abort:
            status = console.INTERRUPTED
        except Exception as error:
            # click's usage errors know how to say themselves; typer does not export their class
            if hasattr(error, "show") and hasattr(error, "exit_code"):
                error.show()
                return console.BAD_USAGE
            raise
        if status == console.INTERRUPTED:
            # typer turns Ctrl-C into this status, silently
            raise KeyboardInterrupt
        return status

    sys.exit(console.run_command(call))


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from lmaunet.deploy.doctor import version_line

    console.show(None, [version_line()], False)
    raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,  # noqa: E501
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show more; also after a command.")] = False,  # noqa: E501
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only; also after a command.")] = False,  # noqa: E501
) -> None:  # fmt: skip
    """Note what is given before the command."""
    console.choose_output(quiet=quiet, verbose=verbose)


@command(app)
def doctor(as_json: JsonOption = False) -> None:
    """Show what works on this machine, and the fix for what does not.

    Status 3 where a package is missing that every command needs.
    """
    from lmaunet.deploy.doctor import examine

    content, lines, status = examine()
    console.show(content, lines, as_json)
    raise typer.Exit(status)


@command(data_app, "fetch")
def data_fetch(
    folder: Annotated[Path, typer.Option("--to", help="Where to put it.")] = Path(
        "calibration_data"
    ),
    phantom: PhantomOption = False,
) -> None:
    """Bring the example CT and its labels (TotalSegmentator's, not a radiologist's)."""
    from lmaunet.deploy import data_commands

    console.show(*data_commands.fetch(folder, phantom), False)


@command(data_app, "info")
def data_info(
    data: DataOption = None, phantom: PhantomOption = False, class_map: ClassMapOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Describe a data set: what it is, its split, and the slices and pixels of each class."""
    from lmaunet.deploy import data_commands

    console.show(*data_commands.info(_source(data, phantom, class_map)), as_json)


@command(data_app, "fuse")
def data_fuse(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data set with several images for each case: nnU-Net's raw folder, BraTS, or images/ and labels/.")],  # noqa: E501
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder.")],
    register: Annotated[bool, typer.Option("--register", help="Also move images onto each other; slow.")] = False,  # noqa: E501
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Bring the images of each case onto the grid of its labels, into a new folder."""
    from lmaunet.deploy import data_commands

    console.show(*data_commands.fuse(folder, output, register), as_json)


@command(app)
def spec(
    name: Annotated[str, typer.Argument(help=SPEC_HELP, autocompletion=offer(*SPECS))],
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Print a network's parameters, MACs and bytes, part by part."""
    from lmaunet.deploy.describe import describe

    console.show(*describe(name), as_json)


import_command.register(app)
pretrain_command.register(app)
infer_command.register(app)
refine_command.register(app)
heatmap_command.register(app)


@command(app)
def train(
    spec_name: Annotated[str, typer.Option("--spec", help=SPEC_HELP, autocompletion=offer(*SPECS))] = "demo",  # noqa: E501
    data: DataOption = None, phantom: PhantomOption = False, class_map: ClassMapOption = None,
    run: RunOption = None,
    epochs: Annotated[int, typer.Option(help="Passes over the slices.")] = defaults.TRAIN_EPOCHS,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = defaults.TRAIN_RATE,
    batch_size: Annotated[int, typer.Option(help="Slices in a step.")] = defaults.BATCH_SIZE,
    classes: ClassesOption = None, channels: ChannelsOption = None,
    input_size: InputSizeOption = None,
    elastic: Annotated[bool, typer.Option("--elastic", help="One depthwise weight in each LKM for kernels 5, 7 and 9, each with an input size of its own; builds choose by the image.")] = False,  # noqa: E501
    init: Annotated[Optional[Path], typer.Option(help="A checkpoint of the same spec to start from, such as pretrain wrote; its head is not taken.")] = None,  # noqa: E501, UP045
    drop_modality: Annotated[float, typer.Option(help="Probability with which each image of a patient is left out in training, so that one may be missing later; 0.2 is usual.")] = 0.0,  # noqa: E501
    seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Train a network in float; the same command resumes after an interruption."""
    from lmaunet.deploy import commands
    from lmaunet.stated_spec import state_spec

    network = state_spec(spec_name, classes, channels, input_size).for_training()
    network = elastic_spec(network) if elastic else network
    source = _source(data, phantom, class_map)
    console.show(
        *commands.train(
            run, network, source, epochs, learning_rate, batch_size, seed, init, drop_modality
        ),
        as_json,
    )


@command(app)
def qat(
    ckpt: Annotated[Path, typer.Option("--ckpt", help="The trained FP32 checkpoint.")],
    data: DataOption = None, phantom: PhantomOption = False, class_map: ClassMapOption = None,
    run: RunOption = None,
    spec_name: Annotated[Optional[str], typer.Option("--spec", help="What the checkpoint is of: base, edge, demo or a JSON file; told from its tensors if not given.")] = None,  # noqa: E501, UP045
    classes: ClassesOption = None, channels: ChannelsOption = None,
    input_size: InputSizeOption = None,
    weights: Annotated[Optional[str], typer.Option(help="Which weights of a checkpoint that holds several, such as model_ema; those that are no average if not given.")] = None,  # noqa: E501, UP045
    bits: Annotated[Optional[str], typer.Option(help="Weight bits: 4, or rules such as 3x3=4,decoder*=3; 8 if not given.")] = None,  # noqa: E501, UP045
    budget_mb: Annotated[Optional[float], typer.Option(help="Choose bits so that the ONNX file that ships takes at most this.")] = None,  # noqa: E501, UP045
    scales: Annotated[str, typer.Option(help="free, or pow2 for powers of two.", autocompletion=offer("free", "pow2"))] = "free",  # noqa: E501
    joins: Annotated[str, typer.Option(help="Scales at additions and concatenations: shared, scaled or auto; shared in an LMa-UNet and auto in any other network if not given.", autocompletion=offer("shared", "scaled", "auto"))] = "",  # noqa: E501
    distill: Annotated[float, typer.Option(help="Weight of keeping to the FP32 network's classes.")] = 0.0,  # noqa: E501
    keep_norms: Annotated[bool, typer.Option("--keep-norms/--fold-norms", help="Train with batch normalization, or fold it first.")] = True,  # noqa: E501
    norm: Annotated[str, typer.Option(help="keep, or batch: InstanceNorm and GroupNorm become batch normalization, which folds into convolutions; the network is distilled first.", autocompletion=offer("keep", "batch"))] = "keep",  # noqa: E501
    norm_epochs: Annotated[int, typer.Option(help="Passes of that distillation; 0 for none.")] = defaults.NORM_EPOCHS,  # noqa: E501
    dropout: Annotated[float, typer.Option(help="Drop this share of the channels before the head while training, such as 0.2, so that builds take infer --confidence; 0 for none.")] = 0.0,  # noqa: E501
    drop_modality: Annotated[Optional[float], typer.Option(help="As for train; that of the checkpoint's training if not given.")] = None,  # noqa: E501, UP045
    max_drop: Annotated[Optional[float], typer.Option("--max-drop", help="Give layers more bits until Dice drops at most so many points, such as 0.3, on training patients kept for it; status 1 where it can't be.")] = None,  # noqa: E501, UP045
    explain: Annotated[bool, typer.Option("--explain", help="Show which quantizers cost most.")] = False,  # noqa: E501
    epochs: Annotated[int, typer.Option(help="Passes of QAT and control.")] = defaults.QAT_EPOCHS,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = defaults.QAT_RATE,
    batch_size: Annotated[int, typer.Option(help="Slices in a step.")] = defaults.BATCH_SIZE,
    seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Quantize a checkpoint and train it so, beside an FP32 control; INT8 if nothing else is said.

    The same command resumes after an interruption. Status 1 where --max-drop is not kept.
    """
    from lmaunet.deploy.quantizing import QatOptions
    from lmaunet.deploy.quantizing import qat as quantize
    from lmaunet.stated_spec import state_spec

    stated = state_spec(spec_name, classes, channels, input_size)
    source = _source(data, phantom, class_map)
    options = QatOptions(
        epochs, learning_rate, batch_size, seed, bits, budget_mb, scales, distill, keep_norms,
        explain, weights, joins, norm, norm_epochs, dropout, drop_modality, max_drop,
    )  # fmt: skip
    content, lines, status = quantize(run, ckpt, source, stated, options)
    console.show(content, lines, as_json)
    raise typer.Exit(status)


@command(app)
def export(
    run: RunOption = None,
    lowering: Annotated[Optional[str], typer.Option(help="Also write this form of the scan.")] = None,  # noqa: E501, UP045
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write the ONNX files of the quantized network and check them against torch."""
    from lmaunet.deploy import commands

    console.show(*commands.export(run, lowering), as_json)


@command(app)
@takes_target_options
def build(
    target: TargetOption, run: RunOption = None, as_json: JsonOption = False, **given: Any
) -> None:
    """Build a deployment of the run's quantized network for one target."""
    from lmaunet.deploy import commands
    from lmaunet.deploy.targets import build_options

    # before the export, which takes half a minute
    options = build_options(target, given)
    console.show(*commands.build(run, target, options), as_json)


@command(app)
def measure(
    target: Annotated[Optional[str], typer.Option("--target", help="One target; all that are built if not given.")] = None,  # noqa: E501, UP045
    run: RunOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Score the run's builds on held-out slices and measure their size and latency."""
    from lmaunet.deploy import commands

    console.show(*commands.measure(run, target), as_json)


@command(app)
def bench(
    folder: Annotated[Path, typer.Option("--build", help="The folder of a build, such as runs/NAME/build/ort.")],  # noqa: E501
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Measure time and memory of a build on this device; needs no run and no data."""
    from lmaunet.deploy import commands

    console.show(*commands.bench(folder), as_json)


@command(app)
def report(
    run: RunOption = None,
    baseline: Annotated[Optional[Path], typer.Option(help="An older report.json to compare with.")] = None,  # noqa: E501, UP045
    strict: Annotated[bool, typer.Option("--strict", help="Fail gates on figures that are unavailable.")] = False,  # noqa: E501
    gate: Annotated[Optional[list[str]], typer.Option("--gate", help="A limit such as ort.latency_ms=50 or, a floor, dice=0.7; repeatable. Replaces that of lmaunet.toml and the default.")] = None,  # noqa: E501, UP045
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write report.json, report.md and report.html; status 1 where a gate or the baseline fails."""
    from lmaunet.deploy import commands

    content, lines, status = commands.report(run, baseline, strict, gate or ())
    console.show(content, lines, as_json)
    raise typer.Exit(status)


@command(app)
def demo(
    run: Annotated[Path, typer.Option("--run", help="The run's folder.")] = Path("runs/demo"),
    phantom: PhantomOption = False, seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Do all of it on a real CT, in minutes, with no GPU and no FPGA tools."""
    from lmaunet.deploy import commands

    content, lines, status = commands.demo(run, phantom, seed)
    console.show(content, lines, as_json)
    raise typer.Exit(status)


def _source(data: Path | None, phantom: bool, class_map: Path | None) -> Any:
    """Return the data that the options name, or None where they name none."""
    from lmaunet.deploy.runs import DataSource
    from lmaunet.errors import UserError

    if data is not None and phantom:
        raise UserError("--data and --phantom exclude each other; give one")
    if data is None and class_map is not None:
        raise UserError(f"--class-map {class_map} is for labels of yours; give them with --data")
    if data is None and not phantom:
        return None
    return DataSource(data, class_map)


if __name__ == "__main__":
    main()
