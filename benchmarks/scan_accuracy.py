"""What integers in the scan cost a trained network, by the widths of the scan.

    python benchmarks/scan_accuracy.py --run RUN --images 40 -o results/scan_integers.json

The quantized network of a run (``RUN/qat``; quantized after training where there is none) computes
its scans in integers, on validation slices. So does a network that is made to lean on its scans
(``scan_leaning.py``): it is trained here for ``--epochs`` from the float network, then quantized
and trained on, because in one that does not lean, hardly any format costs Dice. ``--epochs 0``
leaves it out.

Formats are chosen on the calibration slices of the training part. Columns:

- per scan: SQNR in dB of the accumulators that y is rounded from, integer against float64 on the
  same codes of validation slices: over all channels / of the worst one that y's rounding leaves;
- saturated: numbers that a cut saturated with harm, of all scans;
- pixels: the share of the pixels, foreground with either, whose class is that of the float scan;
- Dice: 3-D, for each case, mean over classes, in percent.

Rows: ``float64`` is the real scan of the codes, rounded to codes of y. ``y = 0`` takes the scans
out, ``y = D * x`` their states only. ``chosen by qat`` has the formats that ``RUN/qat/scan.json``
holds; where there are none, ``chosen here`` has those that ``lmaunet.quant.scan_formats`` chooses
now, with ``--target-db``. The others are ``lmaunet.scan.formats.Widths`` with one thing changed.

The line "8-bit inputs" is the SQNR of the real scan of the codes against that of the values before
they were quantized: the noise that the integers' own comes on top of.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accuracy import neutral
from scan_leaning import quantize_leaning, train_leaning, train_quantized

from lmaunet.data.dataset import Dataset
from lmaunet.deploy.console import run_command
from lmaunet.deploy.runs import DataSource, choose_data
from lmaunet.errors import UserError
from lmaunet.graph.module import to_tokens
from lmaunet.net.checkpoint import load_checkpoint, restore
from lmaunet.net.network import LMaUNet
from lmaunet.quant.calibration import calibrate, choose_slices
from lmaunet.quant.integer_network import integer_scans, record_scans, replaced_scans, scan_sites
from lmaunet.quant.network import QuantNetwork
from lmaunet.quant.qat import load_quantized
from lmaunet.quant.scan_formats import TARGET_DB, SiteFormats, choose_for_network, read_formats
from lmaunet.sampling import evenly_spread, labelled_first
from lmaunet.scan.choice import ScanCodes, measure
from lmaunet.scan.formats import Widths, spec_for
from lmaunet.scan.real import selective_scan
from lmaunet.scan.vectors import sqnr_db
from lmaunet.stage import read_manifest, sha256, tool_versions, write_json
from lmaunet.train.metrics import predict_logits, score

HARMLESS = ("exponent", "accumulator", "output")
BATCH = 8

CASES = {
    "default: state 18, shifts": Widths(),
    "state 16, shifts": Widths(state_bits=16),
    "state 14, shifts": Widths(state_bits=14),
    "state 12, shifts": Widths(state_bits=12),
    "state 10, shifts": Widths(state_bits=10),
    "state 18": Widths(per_channel=False),
    "state 16": Widths(state_bits=16, per_channel=False),
    "state 14": Widths(state_bits=14, per_channel=False),
    "state 12": Widths(state_bits=12, per_channel=False),
    "16 lines of 2^-f": Widths(exp_segments=16),
    "4 lines of 2^-f": Widths(exp_segments=4),
    "decay 8": Widths(decay_frac=7),
    "delta 10": Widths(delta_bits=10),
    "delta 8": Widths(delta_bits=8),
    "accumulator 30": Widths(accumulator_bits=30),
    "accumulator 12": Widths(accumulator_bits=12),
}


class Bench:
    """One quantized network, the slices that it is scored on, and what its float scans give.

    Args:
        model: the network, in evaluation mode.
        data: validation slices score; training slices calibrate.
        images: how many validation slices.
        target_db: of the formats where they are chosen here.
        stored: the formats that were chosen with the network; None chooses them here.
    """

    def __init__(
        self,
        model: QuantNetwork,
        data: Dataset,
        images: int,
        target_db: float,
        stored: list[SiteFormats] | None = None,
    ) -> None:
        self.model, self.data = model, data
        self.val = data.val.take(labelled_first(data.val.labels, images))
        self.sites = scan_sites(model)
        self.chosen_row = "chosen here" if stored is None else "chosen by qat"
        self.seconds_to_choose = None
        if stored is None:
            started = time.perf_counter()
            calibration = data.train.images[choose_slices(data)]
            stored = choose_for_network(model, calibration, target_db)
            self.seconds_to_choose = time.perf_counter() - started
        self.chosen = stored
        heard = self.val.images[evenly_spread(len(self.val), BATCH)]
        self.codes = record_scans(model, heard)
        self.inputs_db = input_noise(model, heard)
        self.float_classes = self.predict()

    def predict(self) -> np.ndarray:
        return predict_logits(self.model, self.val.images, BATCH).argmax(1)

    def judge(self, name: str, classes: np.ndarray) -> dict:
        foreground = (classes > 0) | (self.float_classes > 0)
        same = (classes == self.float_classes)[foreground]
        scores = score(classes, self.val.labels, self.val.cases, self.data.classes,
                       self.data.case_spacing_mm)  # fmt: skip
        return {
            "formats": name,
            "pixels": float(same.mean()) if same.size else 1.0,
            "dice": scores.dice,
            "per_class": scores.per_class,
        }

    def without_integers(self) -> list[dict]:
        """Return the rows that no integer scan computes."""
        specs = [entry.chosen.spec for entry in self.chosen]
        scans = [site.integer(spec) for site, spec in zip(self.sites, specs, strict=True)]

        def real(index: int, codes: ScanCodes) -> np.ndarray:
            output = scans[index].run_real(*codes.stimuli).output.swapaxes(0, 1)
            return to_y(index, output)

        def stateless(index: int, codes: ScanCodes) -> np.ndarray:
            site = self.sites[index]
            return to_y(index, site.D * codes.x * (site.scales.x / site.scales.y))

        def to_y(index: int, output: np.ndarray) -> np.ndarray:
            return np.clip(np.floor(output + 0.5), -128, 127) * self.sites[index].scales.y

        rows = [self.judge("float scan", self.float_classes)]
        for name, compute in (
            ("float64", real),
            ("y = D * x", stateless),
            ("y = 0", lambda index, codes: np.zeros(codes.x.shape)),
        ):
            with replaced_scans(self.model, compute):
                rows.append(self.judge(name, self.predict()))
        return rows

    def with_integers(self, name: str, widths: Widths | None) -> dict:
        """Return the row of one choice of widths; None takes the chosen formats."""
        if widths is None:
            specs = [entry.chosen.spec for entry in self.chosen]
        else:
            specs = [
                spec_for(site.scales, site.A, site.D, entry.chosen.statistics, widths)
                for site, entry in zip(self.sites, self.chosen, strict=True)
            ]
        scans = [site.integer(spec) for site, spec in zip(self.sites, specs, strict=True)]
        noises = [measure(scan, codes) for scan, codes in zip(scans, self.codes, strict=True)]
        started = time.perf_counter()
        with integer_scans(self.model, specs) as saturations:
            classes = self.predict()
        seconds = (time.perf_counter() - started) / len(self.val)
        harmful = [
            {cut: n for cut, n in counts.items() if n and cut not in HARMLESS}
            for counts in saturations
        ]
        return {
            **self.judge(name, classes),
            "sqnr_db": [noise.sqnr_db for noise in noises],
            "worst_channel_db": [noise.worst_channel_db for noise in noises],
            "saturated": sum(sum(counts.values()) for counts in harmful),
            "saturations": harmful,
            "seconds_per_slice": seconds,
            "state_shifts": [max(spec.state_shift, default=0) for spec in specs],
        }

    def table(self, title: str) -> dict:
        """Print and return all rows."""
        seconds = self.seconds_to_choose
        how = "by qat" if seconds is None else f"here, in {seconds:.0f} s"
        print(f"\n{title}, {len(self.val)} slices; formats chosen {how}", flush=True)
        print(f"{'8-bit inputs':27}", *(f"{db:11.1f}" for db in self.inputs_db))
        rows = self.without_integers()
        for row in rows:
            print_row(row)
        for name, widths in {self.chosen_row: None, **CASES}.items():
            rows.append(self.with_integers(name, widths))
            print_row(rows[-1])
        return {
            "network": title,
            "slices": len(self.val),
            "seconds_to_choose": seconds,
            "input_sqnr_db": dict(
                zip((s.name for s in self.sites), finite(self.inputs_db), strict=True)
            ),
            "chosen": [entry.to_json() for entry in self.chosen],
            "rows": [plain(row) for row in rows],
        }


def plain(row: dict) -> dict:
    """Return a row for JSON, which knows no infinity: the ratio of a scan without error is null."""
    ratios = ("sqnr_db", "worst_channel_db")
    return row | {key: finite(row[key]) for key in ratios if key in row}


def finite(ratios: list[float]) -> list[float | None]:
    """Return ratios in dB with None for those that are infinite."""
    return [db if np.isfinite(db) else None for db in ratios]


@torch.no_grad()
def input_noise(model: QuantNetwork, images: np.ndarray) -> list[float]:
    """Return for each scan the SQNR that quantizing x, dt, B and C to 8 bits leaves it."""
    found = []
    nodes = {node.name: node for node in model.graph.nodes}
    for site in scan_sites(model):
        before: dict[str, np.ndarray] = {}
        after: dict[str, np.ndarray] = {}
        handles = []
        inputs = nodes[site.name].inputs
        for name in inputs:

            def keep(module, arguments, value, name=name, pairs=(before, after)):
                for into, tensor in zip(pairs, (arguments[0], value), strict=True):
                    into[name] = to_tokens(tensor).cpu().numpy()

            handles.append(model.quantizer(name).register_forward_hook(keep))
        model(torch.from_numpy(images).to(next(model.parameters()).device))
        for handle in handles:
            handle.remove()
        exact, rounded = (
            selective_scan(x, dt, site.A, B, C, site.D)
            for x, dt, B, C in ([v[name] for name in inputs] for v in (before, after))
        )
        found.append(sqnr_db(exact, rounded))
    return found


def print_row(row: dict) -> None:
    ratios = zip(row.get("sqnr_db", []), row.get("worst_channel_db", []), strict=True)
    cells = [f"{all_:5.1f}/{worst:5.1f}" for all_, worst in ratios] or [" " * 11] * 4
    print(
        f"{row['formats']:27}", *cells, f"{row.get('saturated', ''):>9}",
        f"{100 * row['pixels']:7.2f}%", f"{100 * row['dice']:6.2f}", flush=True,
    )  # fmt: skip


def quantized_of(
    run: Path, model: LMaUNet, data: Dataset
) -> tuple[QuantNetwork, str, list[SiteFormats] | None]:
    """Return the run's quantized network, how it was quantized, and the formats chosen with it."""
    if (run / "qat" / "model.pt").exists():
        quantized = load_quantized(run / "qat" / "model.pt")
        return quantized, "QAT", stored_formats(run, quantized)
    images = data.train.images[choose_slices(data)]
    quantized = QuantNetwork.from_module(model, images.shape)
    calibrate(quantized, images)
    return quantized.eval(), "quantized after training", None


def stored_formats(run: Path, model: QuantNetwork) -> list[SiteFormats] | None:
    """Return the formats that ``qat`` chose for a run's network; None where it chose none.

    Raises:
        UserError: where they are of another network.
    """
    path = run / "qat" / "scan.json"
    if not path.exists():
        return None
    found = read_formats(path)
    names = [site.name for site in scan_sites(model)]
    if found and [entry.site for entry in found] != names:
        raise UserError(
            f"{path} holds formats of {', '.join(entry.site for entry in found)}; the network's "
            f"scans are {', '.join(names)}; run qat again"
        )
    return found or None


def float_path(run: Path) -> Path:
    """Return the checkpoint of the float network that a run trained, or that it quantized."""
    path = run / "train" / "model.pt"
    if not path.exists() and (run / "qat" / "manifest.json").exists():
        path = Path(read_manifest(run / "qat")["inputs"]["checkpoint"]["path"])
    return path


def main(options: argparse.Namespace) -> int:
    path, qat = float_path(options.run), options.run / "qat" / "model.pt"
    model = restore(load_checkpoint(path), path)
    source = choose_data(options.run, DataSource(options.data) if options.data else None)
    data = source.load(model.spec)
    quantized, how, stored = quantized_of(options.run, model, data)
    title = f"{model.spec.name} on {data.name}, {how}"
    bench = Bench(quantized, data, options.images, options.target_db, stored)
    networks = [bench.table(title)]
    if options.epochs:
        torch.manual_seed(options.seed)
        train, classes, seed = data.train, model.spec.classes, options.seed
        leaning = train_leaning(model, train, classes, options.epochs, seed, show)
        quantized = quantize_leaning(leaning, train.images[choose_slices(data)])
        quantized = train_quantized(quantized, train, classes, seed, show)
        title = f"the same, leaning on its scans ({options.epochs} epochs, then QAT)"
        networks.append(Bench(quantized, data, options.images, options.target_db).table(title))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        options.output,
        {
            "command": neutral("benchmarks/scan_accuracy.py", sys.argv),
            "date": datetime.date.today().isoformat(),
            "checkpoints_sha256": {
                "float32": sha256(path),
                "quantized": sha256(qat) if qat.exists() else None,
            },
            "data": data.name,
            "synthetic": data.synthetic,
            "spec": model.spec.to_json(),
            "seed": options.seed,
            "target_db": options.target_db,
            "widths": {name: asdict(widths) for name, widths in CASES.items()},
            "networks": networks,
            "tools": tool_versions(),
        },
    )
    print(f"written: {options.output}")
    return 0


def show(fraction: float, line: str) -> None:
    print(f"\r{fraction:4.0%} {line}", end="", file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a run with train or qat")
    parser.add_argument("--data", type=Path, help="other data than the run's")
    parser.add_argument(
        "--images",
        type=int,
        default=40,
        help="validation slices, evenly spread over those with labels",
    )
    parser.add_argument("--epochs", type=int, default=6, help="of the leaning network")
    parser.add_argument("--target-db", type=float, default=TARGET_DB,
                        help="SQNR of the formats that are chosen here")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/scan_integers.json"))
    options = parser.parse_args()
    if options.images < 1 or options.epochs < 0:
        parser.error("--images must be 1 or more, --epochs 0 or more")
    return options


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
