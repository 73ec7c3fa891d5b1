# SPDX-License-Identifier: Apache-2.0
"""What ``tools/export_onnx.py --whole`` does: image in, boxes, masks or label map out, in one ONNX file."""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from carafe_plugin.runtime.config_parts import dataset_class, type_name, unwrap
from carafe_plugin.runtime.errors import UserError
from infer_onnx import FORMAT, KEY

from .drawing import require_image
from .launch import read_config
from .onnx_files import draft, operators_as_nodes
from .preflight import build_model
from .terminal import silence_pycocotools
from .weights import check_weights, read_weights
from .whole_check import check

OPSET = 17  # RoiAlign as MMDetection means it came with 16
# Steps of a test pipeline that leave the pixels alone, or that the graph's Preprocess stands for.
WITHOUT_EFFECT = ('LoadImageFromFile', 'LoadAnnotations', 'MapLabels', 'PackDetInputs', 'PackSegInputs')
GEOMETRY = {
    'Resize': {'type', 'scale', 'scale_factor', 'keep_ratio'},
    'Pad': {'type', 'size', 'size_divisor', 'pad_to_square', 'pad_val'},
}


def export_whole(args: argparse.Namespace) -> None:
    """Build, export, describe, check; a line for each step.

    Raises:
        UserError: the model is of a kind that is not served, a file cannot be read or written, or the check
            fails.
    """
    cfg = read_config(args.config, args.cfg_options)
    images = [] if args.no_check else images_of(cfg, args.images)
    for path in images:
        require_image(path)
    if args.picture and not args.picture.parent.is_dir():
        raise UserError(f'--picture {args.picture}: there is no folder {args.picture.parent}')
    checkpoint = None
    if args.checkpoint:
        checkpoint = read_weights(args.checkpoint, str(Path(args.checkpoint).parent))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = build_model(cfg).eval()
        if checkpoint is not None:
            check_weights(model, checkpoint, args.checkpoint, args.config)
        geometry = read_geometry(cfg)
        module, names, axes = whole_model(model)
        start = time.monotonic()
        with draft(args.out) as file:
            with operators_as_nodes(file, args.domain_ops):
                write(module, args.size, names, axes, file)
            meta = describe(cfg, model, checkpoint, geometry)
            attach(file, meta)
            print(f'{type(model).__name__} exported in {time.monotonic() - start:.0f} s', flush=True)
            if not args.no_check:
                check(file, model, meta, geometry, images, args.picture)
    print(f'{args.out} ({args.out.stat().st_size / 2**20:.1f} MiB)')


def read_geometry(cfg: Config) -> list[dict]:
    """The steps of the test pipeline that resize and pad.

    Raises:
        UserError: there is a step that :mod:`infer_onnx` does not know, or it is used in another way.
    """
    geometry = []
    for step in next(_datasets(cfg), {}).get('pipeline') or []:
        name = type_name(step)
        if known := GEOMETRY.get(name):
            if unknown := step.keys() - known:
                raise UserError(
                    f'test pipeline: {name} with {", ".join(sorted(unknown))} cannot leave Python'
                )
            geometry.append(_resize_rule(step) if name == 'Resize' else dict(step))
        elif name not in WITHOUT_EFFECT or step.get('color_type', 'color') != 'color':
            raise UserError(f'test pipeline: {name} cannot leave Python, known are {", ".join(GEOMETRY)}')
    if [type_name(step) for step in geometry] not in ([], ['Resize'], ['Pad'], ['Resize', 'Pad']):
        raise UserError('test pipeline: expected one Resize, then one Pad, or one of them, or none')
    if not geometry or type_name(geometry[0]) != 'Resize':
        geometry.insert(0, dict(type='Resize', scale_factor=1.0, keep_ratio=True))
    return geometry


def _resize_rule(step: dict) -> dict:
    """With a ``scale`` of two sides, or else a ``scale_factor``, as the step itself takes them."""
    rule = dict(step)
    scale, factor = rule.pop('scale', None), rule.pop('scale_factor', None)
    if scale:
        return rule | dict(scale=(scale, scale) if isinstance(scale, int) else tuple(scale))
    if not isinstance(factor, (int, float)):
        raise UserError(
            f'test pipeline: Resize with scale_factor={factor!r} cannot leave Python, expected a number'
        )
    return rule | dict(scale_factor=factor)


def _datasets(cfg: Config):
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    return (inner for _, inner in unwrap(dataset, '')) if dataset else iter(())


def whole_model(model: nn.Module) -> tuple[nn.Module, tuple[str, ...], dict]:
    """The module to export, names of its outputs and, by name, the axes that are free.

    Raises:
        UserError: the model is of another kind.
    """
    try:
        if hasattr(model, 'decode_head'):
            from carafe_plugin.segmentation.export import LabelMap

            free = {0: 'batch', 1: 'height', 2: 'width'}
            axes = {'images': {0: 'batch', 2: 'height', 3: 'width'}, 'labels': free}
            return LabelMap(model), ('labels',), axes
        from carafe_plugin.detection.export import OUTPUTS, Detector

        module = Detector(model)
        names = OUTPUTS if module.has_masks else OUTPUTS[:-1]
        axes = {'images': {2: 'height', 3: 'width'}} | {name: {0: 'objects'} for name in names}
        return module, names, axes
    except (TypeError, ValueError) as error:
        raise UserError(error) from error


def write(module: nn.Module, size: tuple[int, int], names: tuple[str, ...], axes: dict, out: Path) -> None:
    """Export with an image of noise.

    Raises:
        UserError: the exporter refuses the model.
    """
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    with warnings.catch_warnings():  # the exporter talks to its own developers
        warnings.simplefilter('ignore')
        try:
            torch.onnx.export(
                module,
                (images,),
                out,
                dynamo=False,
                opset_version=OPSET,
                input_names=['images'],
                output_names=list(names),
                dynamic_axes=axes,
                autograd_inlining=False,  # functions with a symbolic of their own call others of mmcv's
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f'the model cannot be exported: {error}'[:400]) from error


def describe(cfg: Config, model: nn.Module, checkpoint: dict | None, geometry: list[dict]) -> dict:
    """What :mod:`infer_onnx` must know beside the graph."""
    segments = hasattr(model, 'decode_head')
    roi_head = getattr(model, 'roi_head', None)
    count = model.out_channels if segments else (roi_head or model).bbox_head.num_classes
    dataset = next(_datasets(cfg), {})
    trained = ((checkpoint or {}).get('meta') or {}).get('dataset_meta')
    named = trained or getattr(dataset_class(dataset), 'METAINFO', {}) | dict(dataset.get('metainfo') or {})
    classes, palette = list(named.get('classes') or ()), named.get('palette')
    if len(classes) != count:
        classes = [f'class {index}' for index in range(count)]
    if not isinstance(palette, (list, tuple)) or len(palette) < count:
        palette = np.random.default_rng(0).integers(40, 230, (count, 3)).tolist()
    resize, *pads = geometry
    meta = dict(
        format=FORMAT,
        task='segmentation' if segments else 'detection',
        classes=classes,
        palette=[list(colour) for colour in palette[:count]],
        resize={key: value for key, value in resize.items() if key != 'type'},
        pad=_pad_rule(pads[0]) if pads else None,
    )
    meta['resize'].setdefault('keep_ratio', False)
    if roi_head is not None and roi_head.with_mask:
        meta['mask_threshold'] = roi_head.test_cfg.mask_thr_binary
    return meta


def _pad_rule(step: dict) -> dict:
    value = step.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, dict) else value
    size = step.get('size')
    return dict(
        size=list(size) if size else None,
        divisor=step.get('size_divisor'),
        square=step.get('pad_to_square', False),
        value=list(value) if isinstance(value, (list, tuple)) else [value] * 3,
    )


def attach(file: Path, meta: dict) -> None:
    """Put the description into the file."""
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, {KEY: json.dumps(meta)})
    onnx.save(model, file)


def images_of(cfg: Config, given: list[Path] | None) -> list[Path]:
    """The images to check with: those given, else the first two of the test data set, where it is there."""
    if given:
        return given
    if (dataset := next(_datasets(cfg), None)) is None:
        return []
    silence_pycocotools()
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            known = DATASETS.build(dataset | dict(pipeline=[]))
        first = [Path(known.get_data_info(index)['img_path']) for index in range(min(2, len(known)))]
    except OSError:  # its annotations, or its folder, are not here
        return []
    return [path for path in first if path.is_file()]
