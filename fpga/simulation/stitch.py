"""One module of a whole design: its nodes, and between them finite FIFOs and width converters.

FIFOs in DRAM share one AXI port of the module, because one is least to connect; ``dram_base`` says
where their rings begin, and ``dram_error`` that the DRAM answered with an error. Weights that are
loaded come by one stream, which passes through the nodes that have any, in topological order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lmaunet.errors import UserError
from lmaunet.fpga.operators import dram_fifo, fifo, width_converter
from lmaunet.fpga.operators.dram_fifo import DramLayout
from lmaunet.fpga.operators.rtl_module import LOAD, LOAD_WIRES, Port, RtlModule, Wire, instance


@dataclass(frozen=True)
class NodeRtl:
    """A node's module, and the tensors at its streams in the order of its ports."""

    name: str
    module: RtlModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """A tensor from its producer's port to its one consumer's.

    ``producer`` and ``consumer`` are None at the borders of the design.
    """

    tensor: str
    producer: tuple[NodeRtl, Port] | None
    consumer: tuple[NodeRtl, Port] | None

    @property
    def port(self) -> Port:
        """The port that fills the stream's FIFO; of the design's input, the one that empties it."""
        end = self.producer or self.consumer
        assert end is not None
        return end[1]


def streams_of(nodes: Sequence[NodeRtl], source: str, sink: str) -> list[Stream]:
    """Return every stream of a design, its input and output among them.

    Raises:
        UserError: where a tensor has no producer, none or several consumers.
    """
    made = {t: (n, p) for n in nodes for t, p in zip(n.outputs, n.module.outputs, strict=True)}
    used: dict[str, list[tuple[NodeRtl, Port]]] = {}
    for node in nodes:
        for tensor, port in zip(node.inputs, node.module.inputs, strict=True):
            used.setdefault(tensor, []).append((node, port))
    for tensor, consumers in used.items():
        if tensor != source and tensor not in made:
            raise UserError(f"{consumers[0][0].name}: nothing makes its input {tensor}")
    found = []
    for tensor in dict.fromkeys([source, *made, *used]):
        consumers = used.get(tensor, [])
        if len(consumers) != (0 if tensor == sink else 1):
            raise UserError(
                f"stream {tensor} has {len(consumers)} consumers, expected "
                f"{0 if tensor == sink else 1}; DuplicateStreams divides one"
            )
        found.append(Stream(tensor, made.get(tensor), consumers[0] if consumers else None))
    return found


def stitch(
    name: str,
    nodes: Sequence[NodeRtl],
    source: str,
    sink: str,
    layouts: Mapping[str, fifo.Layout],
) -> RtlModule:
    """Return a design as one module with the ports ``in0_V`` and ``out0_V``.

    Where nodes have weights to be loaded, :data:`lmaunet.fpga.operators.rtl_module.LOAD` is an
    input too.

    Args:
        name: of the module.
        nodes: every node with its module.
        source, sink: the design's input and output tensor.
        layouts: of the FIFO of each tensor; a register where absent. With any in DRAM the module
            has the ports :data:`lmaunet.fpga.operators.dram_fifo.CONTROL` and ``AXI`` too.

    Raises:
        UserError: where the streams do not fit together, or FIFOs in DRAM have unequal bursts.
    """
    design = _Design()
    signals: dict[tuple[str, str], str] = {}  # by the node and its port
    ends: list[Port] = []
    for i, stream in enumerate(streams_of(nodes, source, sink)):
        shallow = fifo.layout(stream.port.bits, fifo.SHALLOW)
        queue = design.queue(layouts.get(stream.tensor, shallow), f"fifo_{i}")
        start, end = _connect(design, i, stream, queue)
        if stream.producer is None:
            ends.insert(0, replace(stream.port, name=start))
        else:
            signals[stream.producer[0].name, stream.producer[1].name] = start
        if stream.consumer is None:
            ends.append(replace(stream.port, name=end))
        else:
            signals[stream.consumer[0].name, stream.consumer[1].name] = end
    memories: dict[str, Sequence[str]] = {}
    for i, node in enumerate(nodes):
        own = _with_own_memories(node.module, f"n{i}")
        memories |= own.memories
        design.body.append(f"    // {node.name}\n")
        streams = {p.name: signals[node.name, p.name] for p in own.ports}
        design.place(own, f"n{i}", streams | design.load_signals(own, f"n{i}"))
    wires = design.place_dram()
    generated: dict[str, str] = {}
    for module in design.modules:
        generated |= module.generated
    load = [word for node in nodes for word in node.module.load]
    inputs = (ends[0], LOAD) if load else (ends[0],)
    generated[f"{name}.sv"] = _text(name, inputs, ends[1], wires, design)
    sources = dict.fromkeys(file for module in design.modules for file in module.sources)
    return RtlModule(
        name, tuple(sources), {}, inputs, (ends[1],), memories, generated=generated, wires=wires,
        load=load,
    )  # fmt: skip


class _Design:
    """A design's text while its instances are placed."""

    def __init__(self) -> None:
        self.wires: list[str] = []
        self.body: list[str] = []
        self.modules: list[RtlModule] = []
        self.in_dram: dict[str, DramLayout] = {}  # by the FIFO's instance
        self.loads = LOAD.name  # the end of the chain that loads weights, so far

    def wire(self, signal: str, port: Port) -> str:
        """Declare the wires of a stream and return their prefix."""
        self.wires.append(
            f"    wire [{8 * port.bytes - 1}:0] {signal}_tdata;\n"
            f"    wire {signal}_tvalid, {signal}_tready;\n"
        )
        return signal

    def place(self, module: RtlModule, name: str, signals: Mapping[str, str]) -> None:
        """Instantiate a module with each of its streams at the wires of a prefix."""
        self.modules.append(module)
        if name in self.in_dram:
            signals = {**signals, **dram_fifo.client_signals(name)}
        self.body.append(instance(module, name, signals))

    def queue(self, found: fifo.Layout, name: str) -> RtlModule:
        """Return a FIFO; one in DRAM gets the slots behind those of the others."""
        first = sum(other.rows for other in self.in_dram.values())
        if isinstance(found, DramLayout):
            self.in_dram[name] = found
        return dram_fifo.queue_module(found, first)

    def load_signals(self, module: RtlModule, name: str) -> dict[str, str]:
        """Return what a node connects to of the chain that loads weights, and lengthen it."""
        if not module.load:
            return {}
        ends = {True: f"{name}_pass", False: self.loads}
        if self.loads == LOAD.name:
            self.body.append(f"    assign {LOAD.name}_tready = 1'b1;\n")
        self.wires.append(
            f"    wire [{LOAD.bits - 1}:0] {name}_pass_tdata;\n    wire {name}_pass_tvalid;\n"
        )
        self.loads = ends[True]
        return {wire.name: f"{ends[wire.output]}_t{wire.name.split('_')[1]}" for wire in LOAD_WIRES}

    def place_dram(self) -> tuple[Wire, ...]:
        """Place the port of the FIFOs in DRAM, if there are any; return what the design needs."""
        if not self.in_dram:
            return ()
        bursts = {found.burst for found in self.in_dram.values()}
        if len(bursts) > 1:
            raise UserError(f"FIFOs in DRAM with bursts of {sorted(bursts)} beats; expected one")
        declared, signals = dram_fifo.port_wiring(list(self.in_dram))
        self.wires.append(declared)
        self.place(dram_fifo.port_module(len(self.in_dram), bursts.pop()), "dram", signals)
        return (*dram_fifo.CONTROL, *dram_fifo.AXI)


def _connect(design: _Design, i: int, stream: Stream, queue: RtlModule) -> tuple[str, str]:
    """Place a stream's FIFO, and a converter where its ends differ; return both ends' prefixes."""
    front, back = stream.producer, stream.consumer
    start = design.wire(f"s{i}_from", front[1]) if front else "in0_V"
    end = design.wire(f"s{i}_to", back[1]) if back else "out0_V"
    if not front or not back or front[1].bits == back[1].bits:
        design.place(queue, f"fifo_{i}", {"in0_V": start, "out0_V": end})
    else:
        middle = design.wire(f"s{i}_held", front[1])
        design.place(queue, f"fifo_{i}", {"in0_V": start, "out0_V": middle})
        converter = width_converter.module(front[1].bits, back[1].bits)
        design.place(converter, f"convert_{i}", {"in0_V": middle, "out0_V": end})
    return start, end


def fifo_names(nodes: Sequence[NodeRtl], source: str, sink: str) -> dict[str, str]:
    """Return the instance name of each tensor's FIFO."""
    return {s.tensor: f"fifo_{i}" for i, s in enumerate(streams_of(nodes, source, sink))}


def node_names(nodes: Sequence[NodeRtl]) -> dict[str, str]:
    """Return the instance name of each node, by its first output."""
    return {node.outputs[0]: f"n{i}" for i, node in enumerate(nodes)}


def _with_own_memories(module: RtlModule, prefix: str) -> RtlModule:
    """Return a module whose memory files are told apart from those of other nodes."""
    names = {name: f"{prefix}_{name}" for name in module.memories}
    return replace(
        module,
        parameters={
            k: names.get(v, v) if isinstance(v, str) else v for k, v in module.parameters.items()
        },
        memories={names[name]: words for name, words in module.memories.items()},
    )


def _text(
    name: str, inputs: Sequence[Port], sink: Port, wires: Sequence[Wire], design: _Design
) -> str:
    ports = ["    input  wire ap_clk", "    input  wire ap_rst_n"]
    into, out = ("input ", "output"), ("output", "input ")
    for port, (there, back) in (*((port, into) for port in inputs), (sink, out)):
        ports += [
            f"    {there} wire [{8 * port.bytes - 1}:0] {port.name}_tdata",
            f"    {there} wire {port.name}_tvalid",
            f"    {back} wire {port.name}_tready",
        ]
    ports += [f"    {wire.declaration}" for wire in wires]
    return (
        f"`default_nettype none\nmodule {name} (\n"
        + ",\n".join(ports)
        + "\n);\n"
        + "".join(design.wires)
        + "".join(design.body)
        + "endmodule\n`default_nettype wire\n"
    )
