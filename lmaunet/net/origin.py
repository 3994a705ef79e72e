"""What a checkpoint file was: its trainer, its wrappers, and what was made of it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lmaunet.graph_spec import NetworkSpec
from lmaunet.spec import SPECS, NetSpec


@dataclass(frozen=True)
class Origin:
    """What a checkpoint file was, in words for a person and for a manifest.

    Args:
        trainer: whose file it is.
        network: the spec that its tensors have.
        unwrapped: what was taken off to get at the weights.
        weights: the set of weights that was taken, where the file names its sets; else None.
        others: the sets that were not taken, as ``--weights`` names them.
        assumed: what of the spec the file does not tell.
        notes: what else there is to know.
    """

    trainer: str = "this program"
    network: str = ""
    unwrapped: tuple[str, ...] = ()
    weights: str | None = None
    others: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether this program wrote the file."""
        return self.trainer == "this program"

    def line(self) -> str:
        """Return one line on what the file was and what was made of it."""
        parts = [f"of {self.trainer}", self.network]
        if self.unwrapped:
            parts.append(f"unwrapped {', '.join(self.unwrapped)}")
        if self.others:
            parts.append(
                f"took {self.weights}, not {', '.join(self.others)} (--weights {self.others[0]} "
                "takes it)"
            )
        if self.assumed:
            parts.append(
                f"not in the file and assumed: {', '.join(self.assumed)} (--input-size or --spec "
                "FILE.json gives another)"
            )
        return "; ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "trainer": self.trainer,
            "network": self.network,
            "unwrapped": list(self.unwrapped),
            "weights": self.weights,
            "other_weights": list(self.others),
            "assumed": list(self.assumed),
            "notes": list(self.notes),
        }


def trainer_of(content: Any) -> str:
    """Return whose file it is, by the keys that a trainer leaves."""
    keys = content.keys() if isinstance(content, Mapping) else ()
    for key, name in (
        ("pytorch-lightning_version", "PyTorch Lightning"),
        ("ds_version", "DeepSpeed"),
        ("ds_config", "DeepSpeed"),
        ("network_weights", "nnU-Net's trainer"),
    ):
        if key in keys:
            return name
    if all(isinstance(v, Tensor) for v in (content.values() if keys else ())):
        return "another trainer (a plain state dict)"
    return "another trainer"


def described(spec: NetworkSpec) -> str:
    """Return a network in words: its name or widths, classes, channels and size of input."""
    if isinstance(spec, NetSpec):
        widths = ",".join(map(str, spec.widths))
        kind = "LMa-UNet" if spec.block == "lkm" else "U-Net"
        name = f"{kind} " + (spec.name if spec.name in SPECS else f"of widths {widths}")
    else:
        name = f"{spec.name} (graph {spec.graph[:12]})"
    channels = f"{spec.in_channels} channel{'s' * (spec.in_channels > 1)}"
    size = "x".join(map(str, spec.input_size))
    return f"{name}, {spec.classes} classes, {channels}, input {size}"


def listed(names: tuple[str, ...]) -> str:
    """Return the first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
