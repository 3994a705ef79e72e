"""``opaque``: one node ``SelectiveScan`` without a function, for a compiler that has its own.

The FPGA flow maps the node to a hardware operator. No ONNX runtime can run the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmaunet.export.lowerings import DOMAIN, NAME, Builder, Lowering, ScanInputs, ScanSite

if TYPE_CHECKING:
    import onnx_ir as ir


def accepts(site: ScanSite) -> str | None:
    """Return None: one node is never too large."""
    return None


def emit(builder: Builder, site: ScanSite, inputs: ScanInputs) -> ir.Value:
    """Add the node, with the name that it had, and return y."""
    return builder.op(NAME, *inputs, domain=DOMAIN, name=site.name)


def node_count(site: ScanSite) -> int:
    """Return 1."""
    return 1


LOWERING = Lowering(
    name="opaque",
    summary="one node that the FPGA compiler knows; no runtime executes it",
    accepts=accepts,
    emit=emit,
    node_count=node_count,
    executable=False,
)
