# SPDX-License-Identifier: Apache-2.0
"""Draw what the upsamplers in a detector's neck do with one image.

OUT/kernels.png   the predicted kernel of each chosen point over the image, one picture for each step
OUT/field.png     where the point comes from: the kernels' weights multiplied back through the pyramid
OUT/features.png  the maps before and after each step (principal components, mean absolute value)

The first two need upsamplers that reassemble with kernels: carafe, fade, fade_lite, sapa, a2u, and
freqfusion, whose low-pass is drawn without the offsets behind it. A chain of levels ends where the neck has
more than a sum between two of them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', type=Path)
    parser.add_argument('--config', required=True)
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--out', required=True, type=Path, help='folder for the pictures')
    parser.add_argument('--points', nargs='+', metavar='X,Y', help='in pixels of the image')
    parser.add_argument(
        '--level', type=int, default=0, help='map that the points lie in; 0, the finest, is the default'
    )
    parser.add_argument('--device', help='default: the first GPU, or cpu')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import matplotlib
import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.runtime.errors import UserError
from carafe_plugin.upsamplers import Upsampler
from carafe_tools.command import run_command
from carafe_tools.drawing import require_image
from carafe_tools.kernels import (
    Step,
    accumulated_field,
    chain,
    principal_colours,
    recorded,
)
from carafe_tools.launch import read_config
from demo import default_device, load_model

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

PANEL = 4.0  # inches
OVERLAY = 0.75


def read_image(model: torch.nn.Module, path: Path) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Bring an image through the model's test pipeline.

    Returns:
        What the network sees as an RGB picture, its input, and the scale (x, y) from image to input.

    Raises:
        UserError: It cannot be read.
    """
    require_image(path)
    image = mmcv.imread(path)
    pipeline = [
        step for step in model.cfg.test_dataloader.dataset.pipeline if 'Annotations' not in step['type']
    ]
    pipeline[0] = dict(type='mmdet.LoadImageFromNDArray')
    sample = Compose(pipeline)(dict(img=image, img_id=0))
    preprocessor = model.data_preprocessor
    data = preprocessor(pseudo_collate([sample]))
    picture = data['inputs'][0]
    if preprocessor._enable_normalize:
        picture = picture * preprocessor.std + preprocessor.mean
    # The preprocessor turns BGR, which the pipeline loads, into RGB, or it does not.
    picture = picture if preprocessor._channel_conversion else picture.flip(0)
    picture = picture.permute(1, 2, 0).clamp(0, 255).byte().cpu().numpy()
    scale = np.array(sample['data_samples'].metainfo.get('scale_factor', (1, 1)), dtype=float)
    return picture, data['inputs'], scale


def check_neck(model: torch.nn.Module, config: str) -> None:
    """Make sure that there is something to draw.

    Raises:
        UserError: The model has no neck, or one without an upsampler of this package.
    """
    neck = getattr(model, 'neck', None)
    if neck is None or not any(isinstance(module, Upsampler) for module in neck.modules()):
        raise UserError(f'{config}: no upsampler in the neck; set model.neck.upsample_cfg')


def find_steps(model: torch.nn.Module, inputs: torch.Tensor) -> list[Step]:
    """The calls of the neck's upsamplers."""
    with torch.no_grad(), recorded(model) as steps:
        model.extract_feat(inputs)
    return steps


def choose_points(
    texts: list[str] | None, picture: np.ndarray, scale: np.ndarray, size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Rows and columns of the chosen points in a map of this size; by default three on a diagonal.

    Raises:
        UserError: A point is not two numbers, or lies outside the image.
    """
    height, width = picture.shape[:2]
    if texts is None:
        return [(size[0] * i // 4, size[1] * i // 4) for i in (1, 2, 3)]
    points = []
    for text in texts:
        try:
            x, y = (float(part) * factor for part, factor in zip(text.split(','), scale, strict=True))
        except ValueError as error:
            raise UserError(f'--points takes X,Y in pixels of the image, got {text!r}') from error
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f'point {text} lies outside the image')
        points.append((int(y * size[0] / height), int(x * size[1] / width)))
    return points


def show(ax: plt.Axes, picture: np.ndarray, title: str) -> None:
    """Put a picture into a panel."""
    ax.imshow(picture)
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()


def overlay(ax: plt.Axes, picture: np.ndarray, weights: np.ndarray, title: str) -> None:
    """Draw weights on a level over the grey image, a level's pixel as a block."""
    height, width = picture.shape[:2]
    show(ax, picture.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2), title)
    peak = max(weights.max(), 1e-12)
    colours = plt.cm.inferno(weights / peak)
    colours[..., 3] = OVERLAY * (weights > 1e-3 * peak)
    ax.imshow(colours, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation='nearest')


def mark(ax: plt.Axes, picture: np.ndarray, point: tuple[int, int], size: tuple[int, int]) -> None:
    """Frame a pixel of a map of this size."""
    cell = picture.shape[0] / size[0], picture.shape[1] / size[1]
    corner = point[1] * cell[1] - 0.5, point[0] * cell[0] - 0.5
    ax.add_patch(Rectangle(corner, cell[1], cell[0], fill=False, ec='cyan', lw=1.2))


def panels(rows: int, columns: int) -> tuple[plt.Figure, np.ndarray]:
    """A sheet of panels."""
    return plt.subplots(
        rows, columns, figsize=(PANEL * columns, PANEL * rows), squeeze=False, layout='constrained'
    )


def save(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_kernels(picture: np.ndarray, steps: list[Step], points: list[tuple[int, int]], file: Path) -> None:
    """Each step's own kernels at the chosen points: rows are points, columns steps."""
    figure, axes = panels(len(points), len(steps))
    size = steps[0].size
    for row, point in zip(axes, points, strict=True):
        for ax, step in zip(row, steps, strict=True):
            here = point[0] * step.size[0] // size[0], point[1] * step.size[1] // size[1]
            weights = accumulated_field([step], here)[1].cpu().numpy()
            overlay(ax, picture, weights, f'{step.name}: {len(weights)} x {len(weights[0])} input')
            mark(ax, picture, here, step.size)
    save(figure, file)


def draw_field(picture: np.ndarray, steps: list[Step], points: list[tuple[int, int]], file: Path) -> None:
    """The accumulated field of each point: rows are points, columns levels from fine to coarse."""
    figure, axes = panels(len(points), len(steps) + 1)
    for row, point in zip(axes, points, strict=True):
        for ax, weights in zip(row, accumulated_field(steps, point), strict=True):
            title = f'{weights.shape[0]} x {weights.shape[1]} level, sum {weights.sum():.3f}'
            overlay(ax, picture, weights.cpu().numpy(), title)
            mark(ax, picture, point, steps[0].size)
    save(figure, file)


def draw_features(steps: list[Step], file: Path) -> None:
    """Each step's map before and after: principal components, then mean absolute value."""
    figure, axes = panels(len(steps), 4)
    for row, step in zip(axes, steps, strict=True):
        maps = [step.x[0], step.upsampled()[0]]
        energies = [m.float().abs().mean(0).cpu().numpy() for m in maps]
        for ax, colours, when in zip(row[:2], principal_colours(*maps), ('before', 'after'), strict=True):
            show(ax, colours.cpu().numpy(), f'{step.name}, {when}')
        for ax, energy, when in zip(row[2:], energies, ('before', 'after'), strict=True):
            ax.imshow(energy, vmin=0, vmax=energies[0].max())
            ax.set_title(f'mean |x|, {when}', fontsize=9)
            ax.set_axis_off()
    save(figure, file)


def visualize(argv: list[str] | None) -> None:
    """Draw all pictures."""
    args = parse_args(argv)
    args.device = args.device or default_device()
    model = load_model(read_config(args.config, None), args)
    check_neck(model, args.config)
    picture, inputs, scale = read_image(model, args.image)
    steps = find_steps(model, inputs)[::-1]  # necks go from coarse to fine
    if not 0 <= args.level < len(steps):
        raise UserError(f'--level must be between 0 and {len(steps) - 1}, got {args.level}')
    linked = chain(steps, steps[args.level])
    points = choose_points(args.points, picture, scale, linked[0].size)
    args.out.mkdir(parents=True, exist_ok=True)
    draw_features(steps, args.out / 'features.png')
    drawn = ['features.png']
    if all(step.has_kernels for step in linked):
        draw_kernels(picture, linked, points, args.out / 'kernels.png')
        draw_field(picture, linked, points, args.out / 'field.png')
        drawn += ['kernels.png', 'field.png']
    else:
        print(f'note: {type(linked[0].upsampler).__name__} has no kernels to draw', file=sys.stderr)
    print(f'{", ".join(drawn)} -> {args.out}')


def main(argv: list[str] | None = None) -> None:
    run_command(visualize, argv)


if __name__ == '__main__':
    main()
