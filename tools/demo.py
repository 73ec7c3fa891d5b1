# SPDX-License-Identifier: Apache-2.0
"""Run a detector, a segmentor or an inpainter over images and draw what comes out.

Every image gives OUT/NAME.png. With --ground-truth a picture has three columns: image, ground truth
and prediction. With --grid all images go into one sheet, OUT/predictions.png, instead. What the model is,
its config says; MMDetection and MMSegmentation are needed for their own configs alone.

With an inpainting config a picture shows the image with its hole, the result and the original.
"""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('inputs', nargs='+', type=Path, metavar='IMAGE', help='image, or folder of them')
    parser.add_argument('--config', required=True)
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--out', required=True, type=Path, help='folder for the pictures')
    parser.add_argument('--score-thr', type=float, default=0.3, help='default: %(default)s')
    parser.add_argument('--device', help='default: the first GPU, or cpu')
    parser.add_argument(
        '--ground-truth',
        type=Path,
        metavar='PATH',
        help='COCO annotations; for segmentation a folder of label maps NAME.png',
    )
    parser.add_argument('--grid', action='store_true', help='one sheet for all images')
    parser.add_argument(
        '--mask',
        type=Path,
        help='hole of the images of an inpainting config, or folder of masks of their names',
    )
    parser.add_argument(
        '--mask-hole', choices=['white', 'black'], default='white', help='what marks the hole'
    )
    parser.add_argument('--max-images', type=int, help='stop after this many')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded

import torch
from mmengine.config import Config

import carafe_tools  # noqa: F401  (a checkout finds its package by it)
from carafe_plugin.runtime.config_parts import type_name
from carafe_plugin.runtime.errors import UserError
from carafe_tools.command import run_command
from carafe_tools.drawing import require_image
from carafe_tools.launch import read_config
from carafe_tools.preflight import building
from carafe_tools.weights import check_weights, read_weights

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def find_images(inputs: list[Path], limit: int | None = None) -> list[Path]:
    """List the first images among files and folders, each folder sorted; all of them can be read.

    Raises:
        UserError: An input does not exist, is no image, or is a folder without images.
    """
    images = []
    for path in inputs:
        found = [path]
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not found:
                raise UserError(f'{path}: no image in this folder ({", ".join(SUFFIXES)})')
        images += found
    images = images[:limit]
    for path in images:
        require_image(path)
    return images


def outputs(images: list[Path], folder: Path, grid: bool) -> list[Path]:
    """Name the file to write for each image; all images have the same one in a grid.

    Raises:
        UserError: Two images would give the same file, or an image would be overwritten.
    """
    files = [folder / f'{"predictions" if grid else image.stem}.png' for image in images]
    sources: dict[Path, Path] = {}
    for file, image in zip(files, images, strict=False):
        if file in sources and not grid:
            raise UserError(f'{sources[file]} and {image} would both be written to {file}')
        sources[file] = image
    inputs = {image.resolve() for image in images}
    for file in files:
        if file.resolve() in inputs:
            raise UserError(f'{file} is an input and would be overwritten; choose another --out')
    return files


def default_device() -> str:
    return 'cuda:0' if torch.cuda.is_available() else 'cpu'


def init_model(cfg: Config, checkpoint: str, device: str) -> torch.nn.Module:
    """The detector or segmentor of a config; the package of the other need not be installed."""
    if cfg.get('default_scope') == 'mmseg':
        from mmseg.apis import init_model as init
    else:
        from mmdet.apis import init_detector as init
    return init(cfg, checkpoint, device=device)


def load_model(cfg: Config, args: argparse.Namespace) -> torch.nn.Module:
    """Build the model of a config and load its weights, all of them.

    Raises:
        UserError: The device does not exist, or the checkpoint cannot be read or is of another model.
    """
    checkpoint = read_weights(args.checkpoint, str(Path(args.checkpoint).parent))
    try:
        torch.empty(0, device=args.device)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f'--device {args.device}: {error}') from error
    # It prints a list of all misfits; one is told below.
    with building(), contextlib.redirect_stdout(None):
        model = init_model(cfg, args.checkpoint, args.device)
    check_weights(model, checkpoint, args.checkpoint, args.config)
    return model


def demo(argv: list[str] | None) -> None:
    """Draw all pictures."""
    args = parse_args(argv)
    args.device = args.device or default_device()
    if args.max_images is not None and args.max_images < 1:
        raise UserError(f'--max-images must be at least 1, got {args.max_images}')
    images = find_images(args.inputs, args.max_images)
    files = outputs(images, args.out, args.grid)
    cfg = read_config(args.config, None)
    if type_name(cfg.get('model') or {}) == 'Inpainter':
        from carafe_tools import inpaint_demo

        if args.grid or args.ground_truth:
            raise UserError('--grid and --ground-truth are not for an inpainting config')
        inpaint_demo.draw(cfg, args.checkpoint, images, files, args.mask, args.mask_hole, args.device)
        print(f'{len(images)} images inpainted -> {args.out}')
        return
    model = load_model(cfg, args)
    if cfg.get('default_scope') == 'mmseg':
        from carafe_tools import seg_demo

        seg_demo.demo(model, images, files, args.ground_truth)
    else:
        from carafe_tools import det_demo

        det_demo.demo(model, images, files, args.ground_truth, args.score_thr, args.grid)
    print(f'{len(images)} images drawn -> {files[0] if args.grid else args.out}')


def main(argv: list[str] | None = None) -> None:
    run_command(demo, argv)


if __name__ == '__main__':
    main()
