# SPDX-License-Identifier: Apache-2.0
"""The UperNet of `make demo-seg` in int8, as an ONNX file, and what that costs in mIoU.

Convolutions are quantised by PyTorch's PT2E flow (pip install torchao), CARAFE stays in float. Ranges come
from the first training images, mIoU from all validation images. Takes some minutes.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo_seg'), help="of the demo's run")
    parser.add_argument(
        '--images', type=int, default=48, help='to take the ranges from; default: %(default)s'
    )
    parser.add_argument('--out', type=Path, default=Path('int8.onnx'), metavar='FILE.onnx')
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error(f'--images must be at least 1, got {args.images}')
    return args


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import warnings

import cv2
import numpy as np
import torch
from mmengine.registry import DefaultScope

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.runtime.errors import UserError
from carafe_tools.command import run_command
from carafe_tools.launch import read_config
from carafe_tools.preflight import build_model
from carafe_tools.weights import check_weights, read_weights
from carafe_tools.whole import attach, describe, read_geometry
from infer_onnx import load, prepare, read_image
from quickstart_seg import ADE, CONFIG

RUNTIMES = ('onnxruntime', 'openvino')


def mean_iou(run: Callable[[np.ndarray], np.ndarray], meta: dict) -> float:
    """mIoU of label maps over the validation images, in percent."""
    common, either = np.zeros(2), np.zeros(2)
    for path in sorted((ADE / 'images' / 'validation').glob('*.jpg')):
        found = run(prepare(read_image(path), meta)[0])[0]
        truth = cv2.imread(str(ADE / 'annotations' / 'validation' / f'{path.stem}.png'), -1) > 0
        for label in (0, 1):  # ground, and shapes of any category
            common[label] += ((found == label) & (truth == label)).sum()
            either[label] += ((found == label) | (truth == label)).sum()
    return 100 * float((common / either).mean())


def run_int8(argv: Sequence[str] | None) -> None:
    """Quantise, export, measure; a line for each result."""
    args = parse_args(argv)
    try:
        from carafe_tools.int8 import quantise
    except ImportError as error:
        raise UserError('torchao is missing: pip install torchao') from error
    if not args.out.parent.is_dir():
        raise UserError(f'--out {args.out}: there is no folder {args.out.parent}')
    latest = args.work_dir / 'last_checkpoint'
    if not latest.is_file():
        raise UserError(f'{latest}: no such file; make demo-seg first')
    cfg, checkpoint = read_config(CONFIG, None), latest.read_text().strip()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg)
        weights = read_weights(checkpoint, str(args.work_dir))
        check_weights(model, weights, checkpoint, CONFIG)
        meta = describe(cfg, model, weights, read_geometry(cfg))
    from carafe_plugin.segmentation.export import LabelMap

    module = LabelMap(model)
    files = sorted((ADE / 'images' / 'training').glob('*.jpg'))[: args.images]
    warnings.simplefilter('ignore')  # torchao and the exporter talk to their own developers
    quantised = quantise(module, [torch.from_numpy(prepare(read_image(path), meta)[0]) for path in files])

    def report(name: str, run: Callable[[np.ndarray], np.ndarray]) -> None:
        print(f'{name:<28}mIoU {mean_iou(run, meta):.2f} %', flush=True)

    with torch.no_grad():
        report('float32, PyTorch', lambda images: module(torch.from_numpy(images)).numpy())
        report('int8, PyTorch', lambda images: quantised(torch.from_numpy(images)).numpy())
        example = torch.from_numpy(prepare(read_image(files[0]), meta)[0])
        program = torch.onnx.export(
            quantised, (example,), dynamo=True, input_names=['images'], output_names=['labels'], verbose=False
        )
    program.save(args.out, external_data=False)
    attach(args.out, meta)
    nodes = [node.op_type for node in program.model.graph]
    print(f'{args.out}: {nodes.count("Conv")} convolutions, {nodes.count("QuantizeLinear")} quantised inputs')
    print(f'{args.out.stat().st_size / 2**20:.1f} MiB, for images of {tuple(example.shape[2:])}', flush=True)
    for runtime in RUNTIMES:
        run = load(args.out, runtime, None)
        report(f'int8, {runtime}', lambda images, run=run: run(images)[0])


def main(argv: Sequence[str] | None = None) -> None:
    run_command(run_int8, argv)


if __name__ == '__main__':
    main()
