#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""FeatUp's operator, forward and both gradients: this package's against plain loops in C, on one thread.

The loops are what FeatUp's CPU extension does, compiled by `cc -O3 -march=native`. Calls are interleaved; the
times are the processor's, so that other processes hardly count.
"""

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=int, nargs=4, default=(384, 28, 28, 7), metavar=('C', 'H', 'W', 'K'))
    parser.add_argument('--calls', type=int, default=31, help='of each alternative (default: 31)')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import torch

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.env import machine
from carafe_plugin.featup_patch import adaptive_conv
from carafe_tools.report import table

SOURCE = """
#define EACH for (int c = 0; c < C; c++) for (int y = 0; y < H; y++) for (int x = 0; x < W; x++) \\
    for (int i = 0; i < k; i++) for (int j = 0; j < k; j++)
#define IN ((c * (H + k - 1) + y + i) * (W + k - 1) + x + j)
#define F (((y * W + x) * k + i) * k + j)
#define OUT ((c * H + y) * W + x)
void forward(const float* in, const float* f, float* out, int C, int H, int W, int k) {
  EACH out[OUT] += f[F] * in[IN];
}
void backward(const float* in, const float* f, const float* grad, float* grad_in, float* grad_f,
              int C, int H, int W, int k) {
  EACH { grad_in[IN] += f[F] * grad[OUT]; grad_f[F] += in[IN] * grad[OUT]; }
}
"""


def compile_loops(folder: Path) -> ctypes.CDLL:
    """The two functions above."""
    (folder / 'loops.c').write_text(SOURCE)
    library = folder / 'loops.so'
    flags = ['-O3', '-march=native', '-shared', '-fPIC']
    subprocess.run(['cc', *flags, folder / 'loops.c', '-o', library], check=True)
    return ctypes.CDLL(str(library))


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    c, h, w, k = args.size
    padded = torch.randn(1, c, h + k - 1, w + k - 1, requires_grad=True)
    filters = torch.randn(1, h, w, k, k, requires_grad=True)
    grad = torch.randn(1, c, h, w)
    with tempfile.TemporaryDirectory() as folder:
        loops = compile_loops(Path(folder))
    out = adaptive_conv(padded, filters)

    def addresses(*tensors: torch.Tensor) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]

    def loops_forward() -> torch.Tensor:
        result = torch.zeros(1, c, h, w)
        loops.forward(*addresses(padded, filters, result), c, h, w, k)
        return result

    def loops_backward() -> tuple[torch.Tensor, ...]:
        grads = torch.zeros_like(padded), torch.zeros_like(filters)
        loops.backward(*addresses(padded, filters, grad, *grads), c, h, w, k)
        return grads

    @torch.no_grad()
    def forward() -> torch.Tensor:
        return adaptive_conv(padded, filters)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(out, (padded, filters), grad, retain_graph=True)

    expected = loops_forward(), *loops_backward()
    torch.testing.assert_close((forward(), *backward()), expected, rtol=1e-3, atol=1e-3)
    runs = dict(forward=(loops_forward, forward), backward=(loops_backward, backward))
    times = {run: [] for pair in runs.values() for run in pair}
    for _ in range(args.calls):
        for run, spent in times.items():
            start = time.process_time()
            run()
            spent.append(1e3 * (time.process_time() - start))
    rows = []
    for direction, pair in runs.items():
        theirs, ours = (statistics.median(times[run]) for run in pair)
        rows.append({'direction': direction, 'loops, ms': theirs, 'here, ms': ours, 'ratio': theirs / ours})
    print(f'{c} x {h} x {w}, k = {k}, one thread on {machine("cpu")}\n\n{table(rows)}')


if __name__ == '__main__':
    main()
