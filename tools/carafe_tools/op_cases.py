# SPDX-License-Identifier: Apache-2.0
"""What ``tools/benchmark.py op`` measures: sizes, the operator in its forms, and its peers. Torch alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from carafe_plugin.ops import carafe, carafe_softmax, reference
from carafe_plugin.upsamplers import CARAFE

from .benchmark_options import SIZES
from .timing import one_line

KERNEL, GROUPS, SCALE = 5, 1, 2
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)

#: The plain PyTorch forms are slow and compile for minutes: they run here only.
FORMS_AT = 'p4'
FORMS = ('unfold+einsum', 'slices')
#: On CUDA a call from Python can take longer than these maps: graphs are replayed.
GRAPH_AT = tuple(size for size in SIZES if size not in ('p2', 'roi512'))


@dataclass
class Case:
    """One alternative at one size.

    Args:
        run: what to call; it returns its results.
        bytes: least traffic, each input read once and each result written once.
        flops: 2 for a multiply-add.
        outputs: bytes of the results.
    """

    run: Callable[[], object]
    bytes: int
    flops: int = 0
    outputs: int = 0


def shape_of(size: str, device: str) -> tuple[int, int, int, int]:
    """Shape of a named size; levels of a pyramid come in batches of 2 on CUDA."""
    n, c, h, w = SIZES[size]
    return (2 if device == 'cuda' and size[0] == 'p' else n), c, h, w


def unfold_einsum(features: Tensor, masks: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    """The shortest way to write the operator in PyTorch (one group)."""
    n, c, h, w = features.shape
    columns = F.unfold(features, kernel_size, padding=kernel_size // 2).view(n, c, -1, h, w)
    kernels = masks.view(n, -1, h, scale, w, scale)
    return torch.einsum('nckhw,nkhpwq->nchpwq', columns, kernels).reshape(n, c, h * scale, w * scale)


def make_cases(size: str, device: str, dtypes: list[str], forms: bool) -> dict[str, Case]:
    """The operator's forms and its peers at one size, all on random data.

    Args:
        size: a key of :data:`SIZES`.
        device: 'cpu' or 'cuda'.
        dtypes: keys of :data:`DTYPES`; the first one's cases have plain names, the others' their dtype's.
        forms: also plain PyTorch forms, as they are and compiled.
    """
    shape = shape_of(size, device)
    cases: dict[str, Case] = {}
    for i, dtype in enumerate(dtypes):
        suffix = f' {dtype}' if i else ''
        tensors = _tensors(shape, device, DTYPES[dtype])
        cases |= _operator(tensors, suffix)
        cases |= _interpolation(tensors[0], tensors[3], suffix)
        cases |= _mmcv(tensors, suffix)
        if i == 0:
            last = [t.contiguous(memory_format=torch.channels_last) for t in tensors]
            cases |= _operator(last, ' channels_last')
            cases |= _forms(tensors) if forms else {}
    return cases


def _tensors(shape: tuple, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Features, masks, logits and the gradient of the output."""
    n, c, h, w = shape
    generator = torch.Generator(device).manual_seed(0)
    kernels = GROUPS * KERNEL**2
    shapes = (
        shape,
        (n, kernels, h * SCALE, w * SCALE),
        (n, kernels * SCALE**2, h, w),
        (n, c, h * SCALE, w * SCALE),
    )
    x, masks, logits, grad = (torch.randn(s, generator=generator, device=device) for s in shapes)
    return [t.to(dtype) for t in (x, masks.softmax(1), logits, grad)]


def _size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _differentiable(
    function: Callable, x: Tensor, kernels: Tensor, grad: Tensor, suffix: str
) -> dict[str, Case]:
    """Forward, backward (both gradients) and the two together, of a function of features and kernels."""
    sizes, flops = (KERNEL, GROUPS, SCALE), 2 * grad.numel() * KERNEL**2
    inputs = [t.detach().requires_grad_() for t in (x, kernels)]
    graph = []  # kept from the first call of the backward on: made on the stream that will run it

    def forward() -> Tensor:
        return function(x, kernels, *sizes)

    def backward() -> tuple[Tensor, ...]:
        if not graph:
            graph.append(function(*inputs, *sizes))
        return torch.autograd.grad(graph[0], inputs, grad, retain_graph=True)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs, *sizes), inputs, grad)

    both = _size(x, kernels)
    cases = {
        f'forward{suffix}': Case(forward, both + _size(grad), flops, _size(grad)),
        f'backward{suffix}': Case(backward, 2 * both + _size(grad), 2 * flops, both),
    }
    if not suffix:
        cases['step'] = Case(step, 3 * both + 2 * _size(grad), 3 * flops, both + _size(grad))
    return cases


def _operator(tensors: list[Tensor], suffix: str) -> dict[str, Case]:
    x, masks, logits, grad = tensors
    cases = _differentiable(carafe, x, masks, grad, suffix)
    fused = _differentiable(carafe_softmax, x, logits, grad, suffix)
    return cases | {f'fused {name}': case for name, case in fused.items()}


def _interpolation(x: Tensor, grad: Tensor, suffix: str) -> dict[str, Case]:
    least = _size(x, grad)
    # A copy that moves as many bytes as the forward must: half of them read, half written.
    traffic = least + GROUPS * KERNEL**2 * _size(grad) // x.shape[1]
    to, of = (torch.zeros(traffic // 2, dtype=torch.uint8, device=x.device) for _ in range(2))
    return {
        f'nearest{suffix}': Case(
            lambda: F.interpolate(x, scale_factor=SCALE, mode='nearest'), least, 0, _size(grad)
        ),
        f'bilinear{suffix}': Case(
            lambda: F.interpolate(x, scale_factor=SCALE, mode='bilinear', align_corners=False),
            least,
            8 * grad.numel(),
            _size(grad),
        ),
        f'copy{suffix}': Case(lambda: to.copy_(of), traffic),
    }


def _forms(tensors: list[Tensor]) -> dict[str, Case]:
    x, masks, _, grad = tensors
    least, flops = _size(x, masks, grad), 2 * grad.numel() * KERNEL**2
    cases = {}
    for name, form in (('unfold+einsum', unfold_einsum), ('slices', reference.carafe)):
        for how, function in (('', form), (' compiled', torch.compile(form, dynamic=False))):
            run = torch.no_grad()(lambda f=function: f(x, masks, KERNEL, GROUPS, SCALE))
            cases[name + how] = Case(run, least, flops, _size(grad))
    return cases


def peer() -> tuple[Callable | None, str]:
    """mmcv's operator, and a clause about it; a benchmark never patches mmcv."""
    try:
        import mmcv.ops
    except ImportError as error:
        return None, f"mmcv's operator is missing, nothing is measured against it: {one_line(error)}"
    return mmcv.ops.carafe, "mmcv's operator"


def _mmcv(tensors: list[Tensor], suffix: str) -> dict[str, Case]:
    """mmcv's operator and its whole layer, where mmcv is installed with CUDA kernels; no bfloat16 there."""
    x, masks, _, grad = tensors
    operator = peer()[0] if x.device.type == 'cuda' and x.dtype != torch.bfloat16 else None
    if operator is None:
        return {}
    import mmcv.ops

    cases = {f'mmcv {name}': c for name, c in _differentiable(operator, x, masks, grad, suffix).items()}
    channels = x.shape[1]
    for name, layer in (('module', CARAFE(channels)), ('mmcv module', mmcv.ops.CARAFEPack(channels, SCALE))):
        cases[f'{name} step{suffix}'] = Case(_layer_step(layer.to(x), x, grad), 0)
    return cases


def _layer_step(layer: torch.nn.Module, x: Tensor, grad: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    x = x.detach().requires_grad_()
    inputs = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), inputs, grad)
