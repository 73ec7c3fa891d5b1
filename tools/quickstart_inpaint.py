# SPDX-License-Identifier: Apache-2.0
"""The demonstration behind `make demo-inpaint`: data, two trainings, baselines, pictures; for two CPU cores.

The same small Global&Local network is trained with its stock decoder and with CARAFE, each by
tools/train.py; a run that was interrupted goes on where it stopped. Remove the work_dir to start anew.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

DATA = Path('data/inpaint')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo-inpaint'))
    parser.add_argument('--data-only', action='store_true', help=f'write the pictures to {DATA} and stop')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.inpainting import InpaintingMetric
from carafe_plugin.runtime.errors import UserError
from carafe_tools.command import run_command
from carafe_tools.fillings import BASELINES
from carafe_tools.inpaint_demo import inpaint, load_inpainter
from carafe_tools.pictures import make_pictures

CONFIG = 'configs/quickstart/inpaint_global-local-carafe_pictures.py'
NETWORKS = dict(stock=['--cfg-options', 'model.generator.upsample_cfg=None'], carafe=[])
COLUMNS = ('PSNR', 'L1', 'SSIM', 'hole_PSNR', 'hole_L1')
SHOWN = 8


def train(name: str, work_dir: Path) -> Path:
    """Train one of the networks, or find it trained; return its checkpoint."""
    folder = work_dir / name
    stamp = hashlib.sha256(Config.fromfile(CONFIG).pretty_text.encode()).hexdigest()
    note = work_dir / f'{name}.sha256'
    if folder.exists() and (not note.exists() or note.read_text() != stamp):
        raise UserError(f'{folder} holds something else than a run of {CONFIG}: move it away first')
    work_dir.mkdir(parents=True, exist_ok=True)
    note.write_text(stamp)
    command = ['tools/train.py', CONFIG, '--work-dir', str(folder), '--resume', *NETWORKS[name]]
    print(f'\n$ python {shlex.join(command)}', flush=True)
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
        sys.exit(code)
    return Path((folder / 'last_checkpoint').read_text().strip())


def rising(folder: Path) -> str:
    """PSNR at each validation of a run."""
    lines = [json.loads(line) for file in sorted(folder.glob('*/vis_data/*.json')) for line in file.open()]
    values = {line['step']: line['PSNR'] for line in lines if 'PSNR' in line}
    return ', '.join(f'{value:.2f} ({step})' for step, value in sorted(values.items()))


def fill_all(
    networks: dict[str, torch.nn.Module], dataset: torch.utils.data.Dataset
) -> dict[str, list[dict]]:
    """What every baseline and every network makes of each held-out picture."""
    samples = {name: [] for name in (*BASELINES, *networks)}
    for item in (dataset[i] for i in range(len(dataset))):
        image, sample = item['inputs'].permute(1, 2, 0).numpy().copy(), item['data_samples']
        hole = sample['holes'][0].numpy()
        facts = dict(original=item['inputs'], hole=sample['holes'], skipped=sample['skipped'])
        for name, fill in BASELINES.items():
            filled = torch.from_numpy(fill(image, hole)).permute(2, 0, 1)
            samples[name].append(dict(facts, result=filled))
        for name, model in networks.items():
            samples[name].append(dict(facts, result=inpaint(model, image, hole)['result']))
    return samples


def table(samples: dict[str, list[dict]]) -> str:
    """Figures over the held-out pictures."""
    lines = ['        ' + ''.join(f'{column:>11}' for column in COLUMNS)]
    for name, rows in samples.items():
        metric = InpaintingMetric(prefix='')
        metric.process(None, rows)
        figures = metric.evaluate(len(rows))
        lines.append(f'{name:<8}' + ''.join(f'{figures[column]:>11.3f}' for column in COLUMNS))
    return '\n'.join(lines)


def sheet(samples: dict[str, list[dict]], scale: int = 2) -> Image.Image:
    """One row per picture: with its hole, filled by each, original."""
    shown = np.linspace(0, len(samples['mean']) - 1, SHOWN).round().astype(int)
    rows = []
    for i in shown:
        first = samples['mean'][i]
        masked = torch.where(first['hole'] > 0, 255, first['original'])
        pictures = [masked, *(rows_of[i]['result'] for rows_of in samples.values()), first['original']]
        rows.append(torch.cat([torch.nn.functional.pad(p, (3, 3, 3, 3), value=255) for p in pictures], 2))
    picture = torch.cat(rows, 1).permute(1, 2, 0).byte().numpy()
    return Image.fromarray(picture).resize(
        (scale * picture.shape[1], scale * picture.shape[0]), Image.NEAREST
    )


def demo(argv: list[str] | None) -> None:
    args = parse_args(argv)
    start = time.monotonic()

    made = make_pictures(DATA, dict(train=600, val=48), dict(train=20, val=6))
    print(f'{DATA}: generated textures and cut-outs of photographs {"written" if made else "were there"}')
    if args.data_only:
        return
    checkpoints = {name: train(name, args.work_dir) for name in NETWORKS}
    networks = {}
    for name, checkpoint in checkpoints.items():
        cfg = Config.fromfile(CONFIG)
        if name == 'stock':
            cfg.model.generator.upsample_cfg = None
        networks[name] = load_inpainter(cfg, str(checkpoint), 'cpu')
    samples = fill_all(networks, DATASETS.build(cfg.val_dataloader.dataset))
    sheet(samples).save(args.work_dir / 'inpainted.png')

    print('\nHeld-out pictures; PSNR in dB, L1 in %, hole_* over the pixels of the holes alone:')
    print(table(samples))
    for name in NETWORKS:
        print(f'PSNR of {name} along the training (iteration): {rising(args.work_dir / name)}')
    print(f'\n{time.monotonic() - start:.0f} s in all. Look at {args.work_dir}/inpainted.png, from the left:')
    print(f'  picture with its hole, {", ".join(samples)}, original')
    print('Next: a mask of your own with tools/demo.py, or train on Places: docs/inpainting.md')


def main(argv: list[str] | None = None) -> None:
    run_command(demo, argv)


if __name__ == '__main__':
    main()
