# SPDX-License-Identifier: Apache-2.0
"""What ``tools/benchmark.py export`` measures: a CARAFE layer in PyTorch and in other runtimes."""

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin import onnx_domain
from carafe_plugin.upsamplers import CARAFE

from . import models, op_cases
from .benchmark_options import SIZES
from .timing import Timing, measure, one_line

NATIVE = 'PyTorch, native operator'
RUNTIMES = ('onnxruntime', 'openvino', 'onnx')


class _Bilinear(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode='bilinear')


class ExportedLayer:
    """A CARAFE layer and its files, ready to be run at any size.

    Args:
        folder: for the files.
        channels: of the map.
    """

    def __init__(self, folder: Path, channels: int) -> None:
        self.folder, self.layer = folder, CARAFE(channels, op_cases.SCALE).eval()
        generator = torch.Generator().manual_seed(0)
        weight = self.layer.content_encoder.weight
        weight.data = 0.05 * torch.randn(weight.shape, generator=generator)  # kernels far from a plain mean
        example = torch.rand(2, channels, 10, 12, generator=generator)
        for name, module in dict(standard=self.layer, domain=self.layer, bilinear=_Bilinear()).items():
            self._export(name, module, example)

    def _export(self, name: str, module: nn.Module, example: Tensor) -> None:
        path, axes = self.folder / f'{name}.onnx', {0: 'batch', 2: 'height', 3: 'width'}
        options = dict(
            dynamo=False, input_names=['x'], output_names=['y'], dynamic_axes=dict(x=axes, y=[0, 2, 3])
        )
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if name == 'domain':
                with onnx_domain.domain_operators():
                    torch.onnx.export(module, (example,), path, **options)
                onnx_domain.add_functions(path)
            else:
                torch.onnx.export(module, (example,), path, **options)

    def runs(self, shape: Sequence[int], threads: int) -> tuple[dict[str, Callable], dict[str, str]]:
        """What to call, by name, and what cannot be called here, with the reason."""
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        runs: dict[str, Callable] = {NATIVE: self._with_torch(x, threads)}
        failed = {}
        for name, make, file in (
            ('onnxruntime, standard form', self._with_onnxruntime, 'standard'),
            ('OpenVINO, standard form', self._with_openvino, 'standard'),
            ('OpenVINO, extension', self._with_extension, 'domain'),
            ('bilinear, onnxruntime', self._with_onnxruntime, 'bilinear'),
        ):
            try:
                runs[name] = make(self.folder / f'{file}.onnx', x, threads)
            except (ImportError, FileNotFoundError) as error:  # not installed, or not built
                failed[name] = one_line(error)
        return runs, failed

    def _with_torch(self, x: Tensor, threads: int) -> Callable[[], Tensor]:
        @torch.no_grad()
        def run() -> Tensor:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            return self.layer(x)

        return run

    @staticmethod
    def _with_onnxruntime(path: Path, x: Tensor, threads: int) -> Callable[[], Tensor]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry('session.force_spinning_stop', '1')  # the next alternative's turn
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        return lambda: torch.from_numpy(session.run(None, {'x': x.numpy()})[0])

    def _with_openvino(self, path: Path, x: Tensor, threads: int) -> Callable[[], Tensor]:
        core = self._core
        # Without the hint, in bfloat16 where the processor has it.
        options = dict(INFERENCE_PRECISION_HINT='f32', INFERENCE_NUM_THREADS=threads)
        request = core.compile_model(core.read_model(path), 'CPU', options).create_infer_request()
        shared = dict(share_inputs=True, share_outputs=True)
        return lambda: torch.from_numpy(request.infer({'x': x.numpy()}, **shared)[0])

    def _with_extension(self, path: Path, x: Tensor, threads: int) -> Callable[[], Tensor]:
        from carafe_plugin.openvino import extension_path

        self._core.add_extension(extension_path())
        return self._with_openvino(path, x, threads)

    @functools.cached_property
    def _core(self) -> Any:
        """One for all: of two that go in another order, OpenVINO leaves the thread a freed signal stack."""
        import openvino

        return openvino.Core()


def measure_export(
    layer: ExportedLayer, size: str, counts: Sequence[int], seconds: float
) -> tuple[list[dict], list[dict]]:
    """A row for each runtime and number of threads, all against each other, and one for each that failed."""
    runs, failed = {}, []
    for threads in counts:
        made, lost = layer.runs(SIZES[size], threads)
        runs |= {(name, threads): run for name, run in made.items()}
        failed += [dict(size=size, runtime=name, threads=threads, failed=why) for name, why in lost.items()]
    before = torch.get_num_threads()
    try:
        exact = runs[NATIVE, counts[0]]()
        worst = {key: _difference(run(), exact) for key, run in runs.items() if 'bilinear' not in key[0]}
        timings, broken = measure(runs, 'cpu', seconds)
    finally:
        torch.set_num_threads(before)
    failed += [dict(size=size, runtime=key[0], threads=key[1], failed=why) for key, why in broken.items()]
    rows = [
        _row(size, key, timing, timings.get((NATIVE, key[1])), worst.get(key))
        for key, timing in timings.items()
    ]
    return rows, failed


def _difference(output: Tensor, exact: Tensor) -> float:
    return ((output - exact).abs().max() / exact.abs().max()).item()


def _row(size: str, key: tuple[str, int], timing: Timing, native: Timing | None, worst: float | None) -> dict:
    judged = native is not None and not (native.noisy or timing.noisy)
    return dict(
        size=size,
        runtime=key[0],
        threads=key[1],
        median_ms=round(timing.median, 4),
        min_ms=round(timing.minimum, 4),
        spread=models.spread(timing),
        of_native=round(timing.median / native.median, 2) if judged and native else None,
        difference=worst,
    )
