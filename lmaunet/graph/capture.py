"""A torch module to a graph, once, by ``torch.export``.

The module runs on two images that hold no numbers, which gives the operators of torch that it
calls; :mod:`lmaunet.graph.rules` says what each becomes. What depends on weights alone is computed
here. The selective scan is one operator (:func:`lmaunet.net.scan.scan_op`).
"""

from __future__ import annotations

import io
import logging
import operator
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import OutputKind

from lmaunet.errors import UserError
from lmaunet.graph.attributes import check_wholes
from lmaunet.graph.builder import Builder
from lmaunet.graph.calls import Call, Constant
from lmaunet.graph.graph import Array, Graph
from lmaunet.graph.rules import CHANGELESS, RULES

IMAGES = 2
"""Images that a module is captured with: of one, the axis could not be told from others."""

TORCH = str(Path(torch.__file__).parent)
REMEDY = "write it with the operators of docs/graph.md"


def capture(module: nn.Module, example_shape: Sequence[int]) -> tuple[Graph, dict[str, Array]]:
    """Return the graph of a module in evaluation mode, and its weights.

    Args:
        module: takes one image tensor and returns a tensor, or several in a list or tuple.
        example_shape: ``(N, C, *spatial)``, one to three spatial axes; the graph is for images of
            this size, in any number.

    Raises:
        UserError: where the module branches on values, computes a shape from them, or calls an
            operator of torch that the graph has none for. It names the operator, the module and
            the line of the source.
    """
    shape = tuple(example_shape)
    check_wholes("capture: example_shape", shape, 1, (3, 4, 5))
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        program = _exported(module, (IMAGES, *shape[1:]))
    finally:
        for part in training:
            part.training = True
    with torch.no_grad():
        return _Walk(program).graph()


def _exported(module: nn.Module, shape: tuple[int, ...]) -> Any:
    first = next(module.parameters(), torch.empty(0))
    image = torch.zeros(shape, device=first.device, dtype=torch.float32)
    try:
        # torch prints the part that it has traced before it raises
        quiet = redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), quiet, _unlogged(), torch.no_grad(), _without_autocast():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (image,), strict=False)
            # what changes a tensor in place is written as what gives a new one
            changes = any(
                node.op == "call_function"
                and isinstance(node.target, torch._ops.OpOverload)
                and node.target._schema.is_mutable
                for node in program.graph.nodes
            )
            return program.run_decompositions({}) if changes else program
    except UserError:
        raise
    except Exception as error:  # torch has no common base for what it refuses
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"capture: torch.export can't trace {type(module).__name__}"
            f"{_place_of(error, module)} for an input of {shape}: {reason[:300]}; "
            "a network may branch on shapes, not on values, and each shape must follow from the "
            "input's"
        ) from error


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep torch from logging the trace of what is raised anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Let ``torch.autocast`` do nothing: a graph is in float32."""
    kept = torch.autocast.__enter__, torch.autocast.__exit__
    torch.autocast.__enter__ = lambda self: self
    torch.autocast.__exit__ = lambda self, *error: False
    try:
        yield
    finally:
        torch.autocast.__enter__, torch.autocast.__exit__ = kept


def _place_of(error: BaseException, module: nn.Module) -> str:
    """Return where in the user's code an error came from."""
    names = {id(part): name for name, part in module.named_modules()}
    where = place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith(TORCH) or file == __file__ or file.startswith("<"):
            continue
        owner = names.get(id(frame.f_locals.get("self")))
        where = f" in module {owner!r}" if owner else where
        place = f" at {file}:{line}"
    return where + place


class _Walk:
    """One pass over an exported program's nodes."""

    def __init__(self, program: Any) -> None:
        self.builder = Builder(IMAGES)
        self.values: dict[Any, Any] = {}
        self.outputs: list[str] = []
        signature = program.graph_signature
        tensors = {**program.state_dict, **program.constants}
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                path = names[node.name]
                learned = node.name in signature.inputs_to_parameters
                self.values[node] = Constant(tensors[path].detach(), path, learned)
            elif node.op == "placeholder":
                shape = tuple(node.meta["val"].shape)
                self.values[node] = self.builder.input("image", shape)
            elif node.op == "output":
                self._output(node, [spec.kind for spec in signature.output_specs])
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            else:
                raise _refusal(node, f"{node.op} {node.target}", REMEDY)

    def graph(self) -> tuple[Graph, dict[str, Array]]:
        """Return the graph and its weights."""
        return self.builder.graph(self.outputs)

    def _output(self, node: Any, kinds: list[OutputKind]) -> None:
        for kind, value in zip(kinds, self._value(node.args[0]), strict=True):
            if kind == OutputKind.BUFFER_MUTATION:
                raise UserError(
                    "capture: the module changes one of its buffers as it runs; a graph has no "
                    "memory from one image to the next: let it leave its buffers as they are"
                )
            if kind != OutputKind.USER_OUTPUT:
                continue
            if not isinstance(value, str) or value in self.builder.inputs:
                raise UserError(
                    "capture: an output of the module is no result of operators; return tensors "
                    "that are computed from the image"
                )
            self.outputs.append(value)

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return self.values[argument]
        if isinstance(argument, (list, tuple)):
            return [self._value(entry) for entry in argument]
        return argument

    def _call(self, node: Any) -> Any:
        args = [self._value(argument) for argument in node.args]
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = _operator_name(node)
        if any(self.values[source] is None for source in node.all_input_nodes):
            reason = f"it takes what a graph does not keep, as the place of a maximum; {REMEDY}"
            raise _refusal(node, name, reason)
        call = self._bound(node, args)
        inputs = [v for v in _flat(list(call.arguments.values())) if isinstance(v, (str, Constant))]
        if not call.tensors:
            return self._computed(node, args, inputs)
        if name not in RULES:
            raise _refusal(node, name, f"the graph has no operator for it; {REMEDY}")
        try:
            result = RULES[name](call)
        except UserError as error:
            raise _refusal(node, name, str(error)) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            reason = f"its rule does not know this form ({error!r}); {REMEDY}"
            raise _refusal(node, name, reason) from error
        _check_kind(node, name, result)
        self._check_shape(node, name, result)
        return result

    def _bound(self, node: Any, args: list[Any]) -> Call:
        """Return the call with every argument of the operator's schema by its name."""
        if not isinstance(node.target, torch._ops.OpOverload):
            raise _refusal(node, str(node.target), f"it is no operator; {REMEDY}")
        arguments = {}
        given = {key: self._value(value) for key, value in node.kwargs.items()}
        for place, entry in enumerate(node.target._schema.arguments):
            default = entry.default_value if entry.has_default_value() else None
            value = args[place] if place < len(args) else given.get(entry.name, default)
            arguments[entry.name] = value
        found = _flat([self.values[source] for source in node.all_input_nodes])
        # the names of the values that it takes; other texts are attributes
        tensors = {value for value in found if isinstance(value, str)}
        return Call(self.builder, node, arguments, tensors, _path(node))

    def _computed(self, node: Any, args: list[Any], inputs: list[Any]) -> Any:
        """Return what follows from weights alone."""
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise _refusal(node, _operator_name(node), f"it is random; {REMEDY}")
        sources = [v for v in inputs if isinstance(v, Constant)]
        name = _operator_name(node)
        made = node.meta.get("val")
        kept = isinstance(made, Tensor) and len(sources) == 1 and name in CHANGELESS
        if kept and made.dtype == sources[0].tensor.dtype:
            return sources[0]
        kwargs = {key: _tensors(self._value(value)) for key, value in node.kwargs.items()}
        result = node.target(*_tensors(args), **kwargs)
        origin = sources[0] if sources else None

        def again(place: int | None) -> Any:
            """Return what does the same to another tensor, where there is one source."""
            if len(sources) != 1:
                return None

            def run(tensor: Tensor) -> Tensor:
                other = Constant(tensor, path, True)
                swapped = [other if value is origin else value for value in args]
                made = node.target(*_tensors(swapped), **kwargs)
                return made if place is None else made[place]

            return run

        path = origin.name if origin else node.name
        learned = any(source.learned for source in sources)

        if isinstance(result, Tensor):
            return Constant(result, path, learned, name, origin, again(None))
        if not isinstance(result, (list, tuple)):
            return result
        return [
            Constant(tensor, path, learned, name, origin, again(place))
            for place, tensor in enumerate(result)
        ]

    def _check_shape(self, node: Any, name: str, result: Any) -> None:
        expected = node.meta.get("val")
        if not isinstance(result, str) or not isinstance(expected, Tensor) or "expand" in name:
            return
        if self.builder.shape(result) != tuple(expected.shape):
            raise _refusal(
                node, name, f"its rule gives {self.builder.shape(result)}, torch "
                f"{tuple(expected.shape)}; {REMEDY}",
            )  # fmt: skip


def _check_kind(node: Any, name: str, result: Any) -> None:
    """Refuse a result that is not float32, or has a shape that is not known."""
    for value, kept in zip(_flat(node.meta.get("val")), _flat(result), strict=True):
        if not isinstance(value, Tensor) or kept is None:
            continue
        if any(not isinstance(size, int) for size in value.shape):
            raise _refusal(node, name, "its shape depends on values; give each a fixed shape")
        if value.dtype != torch.float32 and value.numel():
            raise _refusal(node, name, f"it gives {value.dtype}; let the network run in float32")


def _refusal(node: Any, name: str, reason: str) -> UserError:
    """Return the error that names an operator, its module and the source's line."""
    path = _path(node)
    where = f"module {path!r}" if path else "the outermost module"
    return UserError(f"capture: {name} in {where}{_line(node)}: {reason}")


def _line(node: Any) -> str:
    """Return the last line of the trace that is not torch's own."""
    trace = node.meta.get("stack_trace") or ""
    frames = re.findall(r'File "(.+?)", line (\d+), in .+\n\s*(.*)', trace)
    own = [frame for frame in frames if not frame[0].startswith(TORCH)]
    if not own:
        return ""
    file, line, text = own[-1]
    return f" at {file}:{line} ({text.strip()[:80]})"


def _path(node: Any) -> str:
    """Return the path of the module that a node belongs to; a second call's mark is left out."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return re.sub(r"@\d+", "", stack[-1][0]) if stack else ""


def _operator_name(node: Any) -> str:
    """Return an operator's name without its overload, such as ``aten.conv2d``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.replace("::", ".")
    return str(getattr(target, "__name__", target))


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (list, tuple)):
        return [entry for value in values for entry in _flat(value)]
    return [values]


def _tensors(value: Any) -> Any:
    """Return an argument with the constants' tensors in it."""
    if isinstance(value, Constant):
        return value.tensor
    if isinstance(value, (list, tuple)):
        return type(value)(_tensors(entry) for entry in value)
    return value
