# SPDX-License-Identifier: Apache-2.0
"""ONNX files with a node for each operator, and in the same file how to compute it from standard ones.

A node of the domain ``carafe_plugin``, version 1, is a ``reassemble`` (features, masks), a
``reassemble_softmax`` (features, logits) or a ``correlate`` (output, features), as
``torch.ops.carafe_plugin`` has them. Its attributes are the integers ``kernel_size``, ``group_size``,
``scale_factor`` and ``down`` (0 or 1), and the string ``plugin_namespace``; its output has the dtype of the
first input. Functions of the same names hold the standard form, so that onnxruntime runs the file with
nothing registered. There is one for each combination of attributes, told apart by the field ``overload`` (IR
version 10). Needs the ``onnx`` extra.

Example:
    >>> import torch, carafe_plugin
    >>> from carafe_plugin import onnx_domain
    >>> upsampler = carafe_plugin.build_upsampler(dict(type='carafe'), 8).eval()
    >>> with onnx_domain.domain_operators():  # doctest: +SKIP
    ...     torch.onnx.export(upsampler, (torch.rand(1, 8, 6, 7),), 'carafe.onnx', dynamo=False)
    >>> onnx_domain.add_functions('carafe.onnx')  # doctest: +SKIP
    1
"""

import io
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .ops import onnx_form
from .ops._checks import Sizes
from .ops.onnx_nodes import DOMAIN, VERSION, domain_operators

__all__ = ['add_functions', 'check_file', 'domain_operators']

INPUTS = {
    'reassemble': ('features', 'masks'),
    'reassemble_softmax': ('features', 'logits'),
    'correlate': ('output', 'features'),
}
# CastLike came with opset 15; the exporter that writes the bodies ends at 20.
OPSETS = range(15, 21)
OVERLOADS = 10  # the first IR version that knows them


def add_functions(path: str | PathLike) -> int:
    """Give a file that was exported within :func:`domain_operators` its functions.

    Returns:
        How many nodes of the domain it has.

    Raises:
        ValueError: as :func:`check_file`; the file is for an opset outside 15 to 20; a node of the domain
            lacks an attribute, or is inside another function or a node that has a graph (``If``, ``Loop``).
    """
    import onnx

    model = check_file(path)
    others = [function for function in model.functions if function.domain != DOMAIN]
    if any(node.domain == DOMAIN for node in _inner_nodes(model.graph.node, others)):
        raise ValueError(
            f'{path}: a node of the domain {DOMAIN} is inside a function, an If or a Loop, '
            'expected all of them in the main graph'
        )
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset not in OPSETS:
        raise ValueError(
            f'{path}: the functions are written for opsets {OPSETS[0]} to {OPSETS[-1]}, got opset {opset}'
        )
    functions: dict[tuple[str, str], Any] = {}
    for node in nodes:
        values = {attribute.name: attribute.i for attribute in node.attribute}
        if lacking := [name for name in Sizes._fields if name not in values]:
            raise ValueError(f'{path}: {node.op_type} {node.name!r} lacks the attribute {lacking[0]}')
        sizes = Sizes(*(values[name] for name in Sizes._fields))
        node.overload = 'k{}_g{}_s{}{}'.format(*sizes[:3], '_down' * sizes.down)
        key = node.op_type, node.overload
        functions[key] = functions.get(key) or _function(*key, sizes, opset)
    del model.functions[:]
    model.functions.extend([*others, *functions.values()])
    model.ir_version = max(model.ir_version, OVERLOADS)
    with tempfile.TemporaryDirectory(prefix='.onnx-', dir=Path(path).parent) as folder:
        part = Path(folder, Path(path).name)  # its ending decides about the format
        onnx.save(model, part)
        os.replace(part, path)
    return len(nodes)


def _inner_nodes(nodes: Iterable[Any], functions: Iterable[Any] = ()) -> Iterator[Any]:
    """The nodes of functions, and of the graphs that nodes have as attributes."""
    for function in functions:
        yield from function.node
        yield from _inner_nodes(function.node)
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.node
                yield from _inner_nodes(graph.node)


def check_file(path: str | PathLike) -> Any:
    """Read an ONNX file; returns the ``onnx.ModelProto``.

    Raises:
        ValueError: it is no ONNX file, or holds nodes of another version of the domain, or operators that the
            domain does not have.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise ValueError(f'{path}: not an ONNX file') from error
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get(DOMAIN, VERSION) != VERSION:
        raise ValueError(
            f'{path} is for version {versions[DOMAIN]} of the domain {DOMAIN}, must be version {VERSION}'
        )
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type not in INPUTS:
            known = ', '.join(INPUTS)
            raise ValueError(f'{path}: the domain {DOMAIN} has no operator {node.op_type!r}; known: {known}')
    return model


class _Body(nn.Module):
    def __init__(self, name: str, sizes: Sizes) -> None:
        super().__init__()
        self.name, self.sizes = name, sizes

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        if self.name == 'correlate':
            return onnx_form.correlate(first, second, *self.sizes[:3])
        run = onnx_form.carafe if self.name == 'reassemble' else onnx_form.carafe_softmax
        return run(first, second, *self.sizes)


def _example(name: str, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Inputs to trace with."""
    k, groups, s, down = sizes
    coarse, fine = (4, 6), (4 * s, 6 * s)
    features = torch.rand(2, 2 * groups, *(fine if down else coarse))
    if name == 'correlate':
        return torch.rand(2, 2 * groups, *fine), features
    shuffled = name == 'reassemble_softmax' and not down
    entries = groups * k * k * (s * s if shuffled else 1)
    return features, torch.rand(2, entries, *(coarse if down or shuffled else fine))


def _function(name: str, overload: str, sizes: Sizes, opset: int) -> Any:
    """The standard form as an ``onnx.FunctionProto``: float32 inside, whatever the inputs are."""
    import onnx
    from onnx import helper

    inputs, inside = INPUTS[name], ['first', 'second']
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            _Body(name, sizes),
            _example(name, sizes),
            file,  # type: ignore[arg-type]  # the older exporter writes into open files, too
            dynamo=False,
            opset_version=opset,
            input_names=inside,
            output_names=['sums'],
            dynamic_axes={key: [0, 1, 2, 3] for key in (*inside, 'sums')},  # of any number of channels, too
        )
    graph = onnx.load_from_string(file.getvalue()).graph
    constants = [helper.make_node('Constant', [], [value.name], value=value) for value in graph.initializer]
    casts = [
        helper.make_node('Cast', [outer], [inner], to=onnx.TensorProto.FLOAT)
        for outer, inner in zip(inputs, inside, strict=True)
    ]
    back = helper.make_node('CastLike', ['sums', inputs[0]], ['result'])
    return helper.make_function(
        DOMAIN,
        name,
        inputs,
        ['result'],
        [*constants, *casts, *graph.node, back],
        [helper.make_opsetid('', opset)],
        attributes=[*Sizes._fields, 'plugin_namespace'],
        overload=overload,
    )
