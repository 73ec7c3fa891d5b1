#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Export backbone and neck of an OpenMMLab config to ONNX: python tools/export_onnx.py CONFIG CHECKPOINT.

The graph takes a normalised batch of images (N, 3, H, W), as the model's data_preprocessor gives it, and
returns the feature maps of ``model.extract_feat``; N, H and W are free. The result is run in onnxruntime at
another size and compared with PyTorch.

With --whole the graph is the whole detector or segmentor: `images`, RGB of 0..255 as float32 (1, 3, H, W), to
`boxes`, `scores`, `labels` and `masks`, or to `labels` (1, H, W). tools/infer_onnx.py draws what it finds.

Either holds standard operators only, or with --domain-ops a node for each operator of this package.
"""

import argparse
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from carafe_tools.options import DictAction

PICTURES = ('.jpg', '.jpeg', '.png')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file or URL')
    parser.add_argument('--random-weights', action='store_true', help='export without a checkpoint')
    parser.add_argument('--out', type=Path, metavar='FILE.onnx', help='default: the name of the config, here')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        default=(256, 320),
        help='image to export with, in pixels; the graph takes any size. default: 256 320',
    )
    parser.add_argument('--whole', action='store_true', help='image in, results out; by the older exporter')
    parser.add_argument(
        '--images',
        nargs='+',
        type=Path,
        metavar='IMAGE',
        help='what --whole is checked with; default: test data',
    )
    parser.add_argument(
        '--picture', type=Path, help="with --whole: where to draw PyTorch's results beside the file's"
    )
    parser.add_argument(
        '--no-check', action='store_true', help='with --whole: write the file without comparing it to PyTorch'
    )
    parser.add_argument(
        '--exporter',
        choices=['dynamo', 'torchscript'],
        help='torchscript is the older one, quicker and less thorough; default: dynamo',
    )
    parser.add_argument(
        '--domain-ops',
        action='store_true',
        help='nodes of the domain carafe_plugin, with functions for runtimes that do not know it',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args(argv)
    if (args.checkpoint is None) != args.random_weights:
        parser.error('give a checkpoint or --random-weights')
    if args.whole and args.exporter == 'dynamo':
        parser.error('--whole takes --exporter torchscript alone')
    if (args.images or args.picture or args.no_check) and not args.whole:
        parser.error('--images, --picture and --no-check are for --whole')
    if (args.images or args.picture) and args.no_check:
        parser.error('--images and --picture are for the check that --no-check leaves out')
    if min(args.size) < 1:
        parser.error('--size must be at least 1, got {} {}'.format(*args.size))
    if args.picture and args.picture.suffix.lower() not in PICTURES:
        parser.error(f'--picture must end in {", ".join(PICTURES)}, got {args.picture}')
    args.exporter = args.exporter or 'dynamo'
    args.out = args.out or Path(f'{Path(args.config).stem}.onnx')
    if args.out.suffix != '.onnx':
        parser.error(f'--out must end in .onnx, got {args.out}')
    return args


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.runtime.errors import UserError
from carafe_tools.command import run_command
from carafe_tools.launch import read_config
from carafe_tools.onnx_files import draft, operators_as_nodes
from carafe_tools.preflight import build_model
from carafe_tools.weights import check_weights, read_weights

STRIDE = 32  # of the coarsest stage; sizes are multiples of it, and of the model's pad_size_divisor
TOLERANCE = 1e-3  # of the largest value in a feature map


class FeatureExtractor(nn.Module):
    """Backbone and neck of a detector or segmentor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.extract_feat(images))


def load_model(args: argparse.Namespace) -> tuple[nn.Module, int]:
    """Build the model with its weights; return it and what image sizes must be a multiple of.

    Raises:
        UserError: the config, the checkpoint or the model does not serve; says why.
    """
    cfg = read_config(args.config, args.cfg_options)
    checkpoint = None
    if args.checkpoint:
        checkpoint = read_weights(args.checkpoint, str(Path(args.checkpoint).parent))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = build_model(cfg)
    if not hasattr(model, 'extract_feat'):
        raise UserError(f'{type(model).__name__} has no extract_feat, so that there is nothing to export')
    if checkpoint is not None:
        parts = ('backbone.', 'neck.')
        check_weights(model, checkpoint, args.checkpoint, args.config, parts)
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    divisor = max(STRIDE, preprocessor.get('pad_size_divisor') or 1)
    return FeatureExtractor(model).eval(), divisor


def export(model: nn.Module, images: Tensor, levels: int, exporter: str, out: Path) -> None:
    """Write the graph.

    Raises:
        UserError: the exporter refuses the model.
    """
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    names = [f'level{i}' for i in range(levels)]
    try:
        if exporter == 'dynamo':
            shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=['images'],
                output_names=names,
                verbose=False,
            )
            program.save(out)
        else:
            dynamic = {name: {i: f'{name}_{axis}' for i, axis in axes.items()} for name in names}
            torch.onnx.export(
                model,
                (images,),
                out,
                dynamo=False,
                input_names=['images'],
                output_names=names,
                dynamic_axes=dict(dynamic, images=axes),
            )
    except RuntimeError as error:  # of which the exporters' own errors are kinds
        other = 'torchscript' if exporter == 'dynamo' else 'dynamo'
        raise UserError(f'the {exporter} exporter fails, try --exporter {other}: {error}'[:400]) from error


def compare(model: nn.Module, images: Tensor, path: Path) -> float:
    """Run the file in onnxruntime; return the largest difference, relative to its map's largest value.

    Raises:
        UserError: the graph cannot run at this size, or gives something else.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    try:
        outputs = session.run(None, {'images': images.numpy()})
    except Exception as error:  # onnxruntime's errors have no common class
        raise UserError(f'{path} does not run at {tuple(images.shape)}: {error}'[:400]) from error
    worst = 0.0
    for level, (output, exact) in enumerate(zip(map(torch.from_numpy, outputs), model(images), strict=True)):
        if output.shape != exact.shape:
            raise UserError(f'level {level} of {path} is {tuple(output.shape)}, not {tuple(exact.shape)}')
        worst = max(worst, ((output - exact).abs().max() / exact.abs().max().clamp(min=1e-6)).item())
    if not worst <= TOLERANCE:  # NaN is no success
        raise UserError(f'{path} differs from PyTorch by {worst:.1e} of the largest value')
    return worst


@torch.no_grad()
def export_onnx(argv: Sequence[str] | None) -> None:
    """Build, export, check; a line for each step."""
    args = parse_args(argv)
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'{error.name} is missing: pip install "carafe-plugin[onnx]"') from error
    if not args.out.parent.is_dir():
        raise UserError(f'--out {args.out}: there is no folder {args.out.parent}')
    if args.whole:
        from carafe_tools.whole import export_whole

        export_whole(args)
        return
    model, divisor = load_model(args)
    height, width = args.size
    if height % divisor or width % divisor:
        raise UserError(f'--size must be multiples of {divisor} for this model, got {height} {width}')
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, height, width, generator=generator)
    maps = model(images)
    print(f'{args.config}: {len(maps)} maps, {", ".join(str(tuple(x.shape[1:])) for x in maps)}')
    print(f'exporting at {height} x {width} by {args.exporter}, which can take minutes', flush=True)
    start = time.monotonic()
    # The exporters talk to their own developers.
    warnings.simplefilter('ignore')
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with draft(args.out) as file:
        with operators_as_nodes(file, args.domain_ops):
            export(model, images, len(maps), args.exporter, file)
        print(f'exported in {time.monotonic() - start:.0f} s, checking in onnxruntime', flush=True)
        other = torch.randn(1, 3, height + divisor, width + 2 * divisor, generator=generator)
        difference = compare(model, other, file)
    size = f'{other.shape[2]} x {other.shape[3]}'
    print(f'largest difference from PyTorch at {size}: {difference:.1e} of the largest value')
    print(f'{args.out} ({args.out.stat().st_size / 2**20:.1f} MiB)')


def main(argv: Sequence[str] | None = None) -> None:
    run_command(export_onnx, argv)


if __name__ == '__main__':
    main()
