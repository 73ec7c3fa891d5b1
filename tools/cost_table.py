# SPDX-License-Identifier: Apache-2.0
"""Tabulate what upsamplers cost: parameters and operations of each alone, or of whole networks.

Without a config the table has every registered upsampler and its published variants, counted per pixel of the
map that goes in, in both conventions: FLOPs with 2 for a multiply-add (the CARAFE paper) and MACs with 1
(most of its successors). With configs it has each of their detectors or inpainting generators, with each
upsampler named by --types in the neck or the generator ("stock" for the stock class's own), counted on one
image by mmengine's FlopAnalyzer, a detector with as many proposals as its config allows.
Weights are random and nothing is read but the configs.
"""

import argparse
import copy
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', help='configs of networks; without one, the upsamplers alone')
    parser.add_argument(
        '--types',
        nargs='+',
        metavar='NAME',
        help='upsamplers, stock for that of the stock class; default: all, or that of the config',
    )
    parser.add_argument('--channels', type=int, default=256, help='channels of the maps')
    parser.add_argument('--scale-factor', type=int, default=2, help='ratio of the sizes')
    parser.add_argument(
        '--shape', type=int, nargs=2, default=(800, 1280), metavar=('H', 'W'), help='size of the image'
    )
    parser.add_argument('--format', choices=['markdown', 'json'], default='markdown')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.runtime.errors import UserError
from carafe_plugin.upsamplers import UPSAMPLERS
from carafe_tools.command import run_command
from carafe_tools.costs import VARIANTS, upsampler_cost
from carafe_tools.report import table


def label(cfg: dict) -> str:
    """``type`` and whatever differs from its defaults."""
    return ', '.join([cfg['type'], *(f'{key}={value!r}' for key, value in cfg.items() if key != 'type')])


def upsampler_rows(types: Sequence[str] | None, channels: int, scale_factor: int) -> list[dict]:
    """A row for each upsampler, those named or all with their variants, that is defined for the ratio."""
    cfgs = [dict(type=name) for name in types or UPSAMPLERS]
    if types is None:
        cfgs = sorted([*cfgs, *VARIANTS], key=lambda cfg: cfg['type'])
    rows = []
    for cfg in cfgs:
        try:
            cost = upsampler_cost(cfg, channels, scale_factor)
        except ValueError as error:
            if types is not None:
                raise UserError(error) from error
            continue
        except RuntimeError as error:
            raise UserError(error) from error
        rows.append(
            {
                'upsampler': label(cfg),
                'guide': 'yes' if UPSAMPLERS.get(cfg['type']).needs_guide else '',
                'weights': cost.weights,
                'biases, norms': cost.others,
                'kFLOPs (2 per MAC)': round(cost.flops / 1e3, 1),
                'kMACs': round(cost.macs / 1e3, 1),
            }
        )
    return rows


def check_types(types: Sequence[str] | None, *others: str) -> None:
    """Raise UserError for a type that is neither registered nor one of ``others``."""
    for name in types or ():
        if name not in UPSAMPLERS and name not in others:
            raise UserError(f'--types: unknown upsampler {name!r}; known: {", ".join(UPSAMPLERS)}')


def model_rows(configs: Sequence[str], types: Sequence[str] | None, shape: Sequence[int]) -> list[dict]:
    """A row for each config and upsampler of its neck or generator; the config's own where none is named."""
    from carafe_plugin.runtime.config_parts import type_name
    from carafe_tools.launch import read_config

    cfgs = [read_config(path, None) for path in configs]  # their custom_imports may bring upsamplers
    check_types(types, 'stock')
    rows = []
    for path, cfg in zip(configs, cfgs, strict=True):
        part = 'generator' if type_name(cfg.model) == 'Inpainter' else 'neck'
        if types and part == 'neck' and 'upsample_cfg' not in cfg.model.get('neck', {}):
            raise UserError(f'{path}: its neck has no upsample_cfg for --types to set')
        for name in types or [None]:
            model_cfg = copy.deepcopy(cfg.model)
            if name is not None:
                model_cfg[part].upsample_cfg = None if name == 'stock' else dict(type=name)
            parameters, macs = model_cost(cfg, model_cfg, shape)
            used = (model_cfg.get(part) or {}).get('upsample_cfg') or {}
            rows.append(
                {
                    'config': Path(path).stem,
                    'upsampler': used.get('type', 'stock'),
                    'parameters (M)': round(parameters / 1e6, 3),
                    'GFLOPs (2 per MAC)': round(2 * macs / 1e9, 1),
                    'GMACs': round(macs / 1e9, 1),
                }
            )
    return rows


def model_cost(cfg, model_cfg, shape: Sequence[int]) -> tuple[int, int]:
    """Parameters and multiply-adds on one black image of (height, width), which is a hole for a generator."""
    import torch
    from mmengine.registry import MODELS, DefaultScope

    from carafe_tools.model_cost import multiply_adds
    from carafe_tools.preflight import building

    height, width = shape
    if 'generator' in model_cfg:
        samples = dict(holes=[torch.ones(1, height, width, dtype=torch.uint8)])
    else:
        from mmdet.structures import DetDataSample

        size = (height, width)
        metainfo = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0)
        samples = [DetDataSample(metainfo=metainfo)]
    image = dict(inputs=[torch.zeros(3, height, width, dtype=torch.uint8)], data_samples=samples)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        with building():
            model = MODELS.build(model_cfg).eval()
        return multiply_adds(model, image)


def tabulate(argv: Sequence[str] | None) -> None:
    args = parse_args(argv)
    if args.configs:
        # What tracing and mmengine say about branches and operators that the count leaves out.
        warnings.filterwarnings('ignore')
        logging.disable(logging.WARNING)
        rows = model_rows(args.configs, args.types, args.shape)
    else:
        check_types(args.types)
        rows = upsampler_rows(args.types, args.channels, args.scale_factor)
    if args.format == 'json':
        print(json.dumps(rows, indent=2))
    else:
        grouped = [{k: f'{v:,}' if isinstance(v, int) else str(v) for k, v in row.items()} for row in rows]
        print(table(grouped))


def main(argv: Sequence[str] | None = None) -> None:
    run_command(tabulate, argv)


if __name__ == '__main__':
    main()
