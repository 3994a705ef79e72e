"""How far a quantized network's confidence can be trusted, on real patients, and what it costs.

    lmaunet-deploy qat --ckpt MODEL.pt --data DATA --dropout 0.2 --run RUN
    python benchmarks/confidence.py --run RUN --data DATA -o results/confidence.json

The network of ``RUN/qat`` is exported and brought into the form of each target that takes masks.
On ``ort`` the held-out patients are scored as ``measure`` scores them
(``lmaunet/deploy/calibrating.py``): calibration before and after a temperature that is fitted to
other patients, risk by coverage, AUROC of errors, volumes. On some of the slices the targets are
compared: entropy and volumes with the same masks. The cost is timed in turns with a plain pass, for
this network and for the spec ``edge`` with random weights at the sizes of ``--sizes``: it depends
on shapes alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import neutral

from lmaunet.artifacts import Build
from lmaunet.data.confidence import SAMPLES, Dropout, draw_masks, predictive_entropy, softmax
from lmaunet.deploy import masked_builds, timing
from lmaunet.deploy.calibrating import calibrate_build, cost_of
from lmaunet.deploy.console import progress_bar, run_command, table
from lmaunet.deploy.targets import BuildRequest, Target, get_target
from lmaunet.sampling import labelled_first
from lmaunet.stage import read_json, read_manifest, sha256, tool_versions, write_json

COMPARED = 12
SEED = 0


def built(name: str, folder: Path, qcdq: Path, samples: np.ndarray, dropout: Dropout) -> Build:
    """Return a target's build with its head over masks; of ``trt`` the engine's graph alone."""
    target = get_target(name)
    folder.mkdir(parents=True)
    if name == "trt":
        import onnx

        from lmaunet.deploy.targets.trt.forms import LOWERING
        from lmaunet.deploy.targets.trt.running import NETWORK
        from lmaunet.export.lower import lower
        from lmaunet.export.reference import read_model
        from lmaunet.trt import policy

        onnx.save(lower(policy.apply(read_model(qcdq))[0], LOWERING), folder / NETWORK)
        made = Build(name, folder, folder / NETWORK, (), {"precision": "int8"})
        return masked_builds.add_head(made, graph_alone(target), dropout, qcdq, samples)
    request = BuildRequest(folder, qcdq, qcdq, samples, {}, lambda line: None)
    return masked_builds.add_head(target.build(request), target, dropout, qcdq, samples)


def graph_alone(target: Target) -> Target:
    """Return ``trt`` without an engine: its graph in ONNX Runtime, as where there is no GPU."""
    from lmaunet.trt.graph_run import graph_session, run_graph

    return dataclasses.replace(
        target, run=lambda build, images: run_graph(build.shipped, images),
        sampled=lambda build, images, masks: masked_builds.run_sessions(
            lambda build, features: graph_session(build.shipped, features), build, images, masks
        ),
    )  # fmt: skip


def export(network: Any, image: np.ndarray, path: Path) -> Path:
    import torch

    from lmaunet.export.network import export_qcdq

    export_qcdq(network, torch.from_numpy(image), path)
    return path


def compare(
    targets: dict[str, tuple[Target, Build]], dropout: Dropout, images: np.ndarray
) -> dict[str, Any]:
    """Return how far entropy and volumes of each target are from those of ``ort``."""
    masks = draw_masks(SAMPLES, dropout.channels, dropout.rate, SEED)
    entropies, voxels = {}, {}
    for name, (target, build) in targets.items():
        assert target.sampled is not None
        logits = [target.sampled(build, image[None], masks)[1][0] for image in images]
        entropies[name] = np.stack(
            [predictive_entropy(softmax(z, dropout.temperature).mean(0), 0) for z in logits]
        )
        classes = np.stack([z.argmax(1) for z in logits])
        voxels[name] = np.array(
            [[(classes[:, t] == c).sum() for t in range(SAMPLES)]
             for c in range(1, logits[0].shape[1])]
        )  # fmt: skip
    own = "ort"
    found = {}
    for name in (n for n in targets if n != own):
        apart = np.abs(entropies[name] - entropies[own])
        volume = np.abs(voxels[name] - voxels[own]) / np.maximum(voxels[own], 1)
        found[name] = {
            "entropy_nats": {
                "mean": float(apart.mean()), "p99": float(np.quantile(apart, 0.99)),
                "p99.9": float(np.quantile(apart, 0.999)), "largest": float(apart.max()),
            },
            "volume_percent": {
                "mean": float(100 * volume.mean()), "largest": float(100 * volume.max())
            },
        }  # fmt: skip
    return {"with": own, "slices": len(images), "targets": found}


def costs(sizes: list[int]) -> list[dict[str, Any]]:
    """Return what 8 samples cost of ``edge`` with random weights, on ort, at some sizes."""
    import torch

    from lmaunet.net.network import LMaUNet
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork
    from lmaunet.spec import named_spec

    rows = []
    for size in sizes:
        spec = named_spec("edge").replace(input_size=(size, size))
        torch.manual_seed(SEED)
        images = np.random.default_rng(SEED).normal(0, 1, (4, 1, size, size)).astype(np.float32)
        network = QuantNetwork.from_module(LMaUNet(spec).eval(), images.shape)
        calibrate(network, images)
        assert spec.decoder_widths is not None
        dropout = Dropout(0.2, spec.decoder_widths[0], 1.0, {})
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            qcdq = export(network.eval(), images[:1], folder / "network.onnx")
            build = built("ort", folder / "ort", qcdq, images, dropout)
            masks = draw_masks(SAMPLES, dropout.channels, 0.2, SEED)
            rows.append(
                {
                    "spec": "edge",
                    "size": size,
                    **cost_of(get_target("ort"), build, masks, images[:1]),
                }
            )
    return rows


def measure(arguments: argparse.Namespace) -> int:
    """Score, compare and time; write the result."""
    from lmaunet.data.loaders import load
    from lmaunet.quant.qat import load_quantized
    from lmaunet.quant.settings import CONFIDENCE_FILE

    folder = arguments.run / "qat"
    network = load_quantized(folder / "model.pt")
    dropout = Dropout.from_json(read_json(folder / CONFIDENCE_FILE))
    assert dropout is not None
    _, _, height, width = network.source.shape(network.source.outputs[0])
    data = load(arguments.data, size=(height, width))
    samples = data.train.images[labelled_first(data.train.labels, 2)]
    quantized, manifest = read_json(folder / "qat.json"), read_manifest(folder)
    content: dict[str, Any] = {
        "command": neutral("benchmarks/confidence.py", sys.argv),
        "qat": {
            "settings": manifest["options"]["settings"],
            "seed": manifest["seed"],
            "dice": {key: value["dice"] for key, value in quantized["scores"].items()},
        },
        "date": datetime.date.today().isoformat(),
        "seed": SEED,
        "tools": tool_versions(),
        "conditions": timing.conditions(),
        "model_sha256": sha256(folder / "model.pt"),
        "data": {"name": data.name, "patients": data.patients_of("val"), "slices": len(data.val)},
        "dropout": dropout.to_json(),
    }
    with tempfile.TemporaryDirectory() as place, progress_bar("confidence") as progress:
        work = Path(place)
        progress(0.0, "exporting")
        qcdq = export(network, samples[:1], work / "network.onnx")
        targets = {"ort": (get_target("ort"), built("ort", work / "ort", qcdq, samples, dropout))}
        content["calibration"] = calibrate_build(
            *targets["ort"], dropout, data, lambda share, line: progress(0.1 + 0.4 * share, line)
        )
        write_json(arguments.output, content)  # what is measured stays if the rest is stopped
        for share, name in ((0.5, "trt"), (0.6, "openvino")):
            progress(share, f"building {name}")
            build = built(name, work / name, qcdq, samples, dropout)
            target = get_target(name)
            targets[name] = (graph_alone(target) if name == "trt" else target, build)
        progress(0.7, "comparing the targets")
        images = data.val.images[labelled_first(data.val.labels, COMPARED)]
        content["targets"] = compare(targets, dropout, images)
        write_json(arguments.output, content)
        progress(0.8, "timing")
        content["cost"] = costs([int(size) for size in arguments.sizes.split(",")])
    write_json(arguments.output, content)
    print("\n".join(lines_of(content)))
    return 0


def lines_of(content: dict[str, Any]) -> list[str]:
    """Return the result as tables."""
    rows = []
    for kind, regions in content["calibration"]["scores"].items():
        for region, score in regions.items():
            risk = dict(zip(score["risk"]["coverage"], score["risk"]["risk"], strict=True))
            auroc = score["auroc_of_errors"]
            rows.append(
                [kind, region, f"{score['ece']:.4f}", "-" if auroc is None else f"{auroc:.4f}",
                 *(f"{100 * risk[at]:.3f}%" for at in (0.8, 0.9, 1.0))]
            )  # fmt: skip
    header = ["prediction", "voxels", "ECE", "AUROC", "risk at 80%", "90%", "100%"]
    lines = table(header, rows)
    lines += [str(row) for row in content["calibration"]["volumes"]]
    lines += [f"{name}: {row}" for name, row in content["targets"]["targets"].items()]
    return lines + [str(row) for row in content["cost"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a run whose qat had --dropout")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", default="128,256", help="of edge, to time")
    parser.add_argument("--output", "-o", type=Path, required=True)
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(run_command(main))
