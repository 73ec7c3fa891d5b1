# SPDX-License-Identifier: Apache-2.0
"""Run a detector or a segmentor over images and draw what it finds.

Every image gives OUT/NAME.png. With --ground-truth a picture has three columns: image, ground truth
and prediction. With --grid all images go into one sheet, OUT/predictions.png, instead. What the model is,
the scope of its config says.

With an inpainting config a picture shows the image with its hole, the result and the original.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.structures.mask import bitmap_to_polygon
from mmdet.visualization.palette import get_palette
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw, ImageFont
from pycocotools.coco import COCO
from tqdm import tqdm

_ROOT = Path(__file__).resolve().parents[1]
if (_ROOT / 'carafe_plugin').is_dir():  # a checkout, installed or not
    sys.path.insert(0, str(_ROOT))

from carafe_plugin.engine import seg_demo  # noqa: E402
from carafe_plugin.engine.checkpoint import check_checkpoint  # noqa: E402
from carafe_plugin.engine.coco_files import check_coco_file  # noqa: E402
from carafe_plugin.engine.config_parts import type_name  # noqa: E402
from carafe_plugin.engine.errors import UserError, run_command  # noqa: E402
from carafe_plugin.engine.launch import read_config  # noqa: E402

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
SIDE = 480  # smaller pictures are enlarged to about this, to show boundaries and labels
CROWD = (150, 150, 150)
LABEL = {'facecolor': 'black', 'alpha': 0.7, 'pad': 0.8, 'edgecolor': 'none'}


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
        if not path.exists():
            raise UserError(f'{path}: no such file')
        if mmcv.imread(path) is None:
            raise UserError(f'{path}: not a readable image')
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


class GroundTruth:
    """Annotations of a COCO file, looked up by the path of an image.

    Args:
        file: The COCO json.
        images: The images that must be in it.
        classes: Names in the order of the model's labels; other categories are not drawn.

    Raises:
        UserError: The file is not COCO, lacks one of the images, or none of its categories is a class.
    """

    def __init__(self, file: Path, images: list[Path], classes: tuple[str, ...]) -> None:
        check_coco_file(str(file), '--ground-truth')
        with contextlib.redirect_stdout(None):  # pycocotools prints
            self.coco = COCO(file)
        ids = {Path(info['file_name']).parts: i for i, info in self.coco.imgs.items()}
        names = {category['name']: i for i, category in self.coco.cats.items()}
        self.classes = classes
        self.labels = {names[name]: label for label, name in enumerate(classes) if name in names}
        if not self.labels:
            known = ', '.join(classes)
            raise UserError(f'{file}: none of its categories is a class of the model ({known})')
        self.ids = {}
        for image in images:
            parts = image.resolve().parts
            found = [ids[parts[i:]] for i in range(len(parts)) if parts[i:] in ids]
            if not found:
                raise UserError(f'{image} is not listed in {file}')
            self.ids[image] = found[0]

    def __getitem__(self, image: Path) -> InstanceData:
        annotations = [
            a
            for a in self.coco.loadAnns(self.coco.getAnnIds(self.ids[image]))
            if a['category_id'] in self.labels
        ]
        crowds = [a.get('iscrowd', 0) for a in annotations]
        labels = [self.labels[a['category_id']] for a in annotations]
        boxes = np.array([a['bbox'] for a in annotations], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = InstanceData(
            bboxes=torch.from_numpy(boxes),
            # The palette's entry after the last class is the crowds' grey.
            labels=torch.tensor(
                [len(self.classes) if crowd else label for label, crowd in zip(labels, crowds, strict=True)],
                dtype=torch.long,
            ),
            label_names=[
                self.classes[label] + ' (crowd)' * crowd for label, crowd in zip(labels, crowds, strict=True)
            ],
        )
        if annotations and all('segmentation' in a for a in annotations):
            masks = np.stack([self.coco.annToMask(a) for a in annotations])
            instances.masks = torch.from_numpy(masks).bool()
        return instances


def enlarge(instances: InstanceData, factor: int) -> InstanceData:
    """Instances of an image of ``factor`` times the size, on the CPU; every mask pixel becomes a block."""
    instances = instances.cpu()
    instances.bboxes = instances.bboxes * factor
    if 'masks' in instances:
        masks = instances.masks.repeat_interleave(factor, dim=1)
        instances.masks = masks.repeat_interleave(factor, dim=2)
    return instances


class Painter:
    """Draws instances in the colours of their categories, small images enlarged.

    Args:
        meta: ``classes`` and ``palette`` of the model.
        score_thr: Predictions of at most this score are not drawn.
        grey: Draw over the image without its colours (for where it stands beside).
    """

    def __init__(self, meta: dict, score_thr: float, grey: bool) -> None:
        self.classes = meta['classes']
        self.palette = [*get_palette(meta['palette'], len(self.classes))[: len(self.classes)], CROWD]
        self.score_thr = score_thr
        self.grey = grey
        self.visualizer = Visualizer()

    def row(self, path: Path, found: InstanceData, truth: InstanceData | None) -> list[np.ndarray]:
        """The picture of one image: itself, the truth if there is one, the prediction; RGB each."""
        image = mmcv.imread(path, channel_order='rgb')
        factor = max(1, round(SIDE / max(image.shape[:2])))
        image = mmcv.imrescale(image, float(factor), interpolation='bicubic')
        found = found[found.scores > self.score_thr]
        layers = [found] if truth is None else [truth, found]
        ground = mmcv.gray2rgb(mmcv.rgb2gray(image)) if self.grey else image
        return [image, *(self._draw(ground, enlarge(layer, factor)) for layer in layers)]

    def _draw(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        if not len(instances):
            return image
        labels = instances.labels.tolist()
        colours = [tuple(self.palette[label]) for label in labels]
        texts = instances.get('label_names') or [self.classes[label] for label in labels]
        if 'scores' in instances:
            texts = [f'{t} {s:.2f}' for t, s in zip(texts, instances.scores.tolist(), strict=True)]
        unit = max(1, max(image.shape) / 640)
        visualizer = self.visualizer
        visualizer.set_image(image)
        if 'masks' in instances:
            masks = instances.masks.numpy()
            visualizer.draw_binary_masks(masks, colors=colours, alphas=0.5)
            for mask, colour in zip(masks, colours, strict=True):
                contours, _ = bitmap_to_polygon(mask)
                visualizer.draw_polygons(contours, edge_colors=colour, line_widths=1.5 * unit, alpha=1)
        # A box that ends beyond the last pixel would stretch the canvas.
        limits = torch.tensor(image.shape[1::-1] * 2) - 1
        boxes = instances.bboxes.clamp(min=0).minimum(limits)
        visualizer.draw_bboxes(boxes, edge_colors=colours, line_widths=unit)
        visualizer.draw_texts(texts, boxes[:, :2], font_sizes=8 * unit, colors='w', bboxes=LABEL)
        return visualizer.get_image()


def sheet(rows: list[list[np.ndarray]], titles: list[str], gap: int = 12) -> Image.Image:
    """Lay pictures out in columns, each under its title."""
    font = ImageFont.load_default(size=24)
    widths = [max(picture.shape[1] for picture in column) for column in zip(*rows, strict=True)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    head = 24 + 2 * gap
    size = (sum(widths) + gap * (len(widths) + 1), head + sum(heights) + gap * len(heights))
    canvas = Image.new('RGB', size, 'white')
    draw = ImageDraw.Draw(canvas)
    x = gap
    for width, title, column in zip(widths, titles, zip(*rows, strict=True), strict=True):
        draw.text((x + width // 2, head // 2), title, fill='black', font=font, anchor='mm')
        y = head
        for height, picture in zip(heights, column, strict=True):
            canvas.paste(Image.fromarray(picture), (x, y))
            y += height + gap
        x += width + gap
    return canvas


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('inputs', nargs='+', type=Path, metavar='IMAGE', help='image, or folder of them')
    parser.add_argument('--config', required=True)
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--out', required=True, type=Path, help='folder for the pictures')
    parser.add_argument('--score-thr', type=float, default=0.3, help='default: %(default)s')
    parser.add_argument('--device', default='cuda:0' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--ground-truth',
        type=Path,
        metavar='PATH',
        help='COCO annotations; for segmentation a folder of label maps NAME.png',
    )
    parser.add_argument('--grid', action='store_true', help='one sheet for all images')
    parser.add_argument('--mask', type=Path, help='hole of the images, for an inpainting config; else drawn')
    parser.add_argument(
        '--mask-hole', choices=['white', 'black'], default='white', help='what marks the hole'
    )
    parser.add_argument('--max-images', type=int, help='stop after this many')
    return parser.parse_args(argv)


def is_segmentation(config: str) -> bool:
    """Whether a config is one of MMSegmentation."""
    return Config.fromfile(config).get('default_scope') == 'mmseg'


def init_segmentor(*args: object, **kwargs: object) -> torch.nn.Module:
    """MMSegmentation's ``init_model``."""
    from mmseg.apis import init_model  # MMSegmentation is an extra of its own

    return init_model(*args, **kwargs)


def load_model(args: argparse.Namespace) -> torch.nn.Module:
    """Build the model and load its weights, all of them.

    Raises:
        UserError: The config or the device does not exist, or the checkpoint cannot be read or is
            of another model.
    """
    if not Path(args.config).is_file():
        raise UserError(f'config {args.config} does not exist')
    checkpoint = check_checkpoint(args.checkpoint, str(Path(args.checkpoint).parent))
    try:
        torch.empty(0, device=args.device)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f'--device {args.device}: {error}') from error
    init_model = init_segmentor if is_segmentation(args.config) else init_detector
    with contextlib.redirect_stdout(None):  # it prints a list of all misfits; one is told below
        model = init_model(args.config, args.checkpoint, device=args.device)
    if checkpoint is not None:
        stored = checkpoint.get('state_dict', checkpoint)
        for name, weight in model.named_parameters():
            if name not in stored or stored[name].shape != weight.shape:
                found = tuple(stored[name].shape) if name in stored else 'nothing'
                raise UserError(
                    f'{args.checkpoint} is of another model than {args.config}: {name} should be '
                    f'{tuple(weight.shape)}, there is {found}'
                )
    return model


def demo(argv: list[str] | None) -> None:
    """Draw all pictures."""
    args = parse_args(argv)
    if args.max_images is not None and args.max_images < 1:
        raise UserError(f'--max-images must be at least 1, got {args.max_images}')
    images = find_images(args.inputs, args.max_images)
    files = outputs(images, args.out, args.grid)
    cfg = read_config(args.config, None)
    if type_name(cfg.get('model') or {}) == 'Inpainter':
        from carafe_plugin.inpainting import demo as inpainting

        if args.grid or args.ground_truth:
            raise UserError('--grid and --ground-truth are not for an inpainting config')
        inpainting.draw(cfg, args.checkpoint, images, files, args.mask, args.mask_hole, args.device)
        print(f'{len(images)} images inpainted -> {args.out}')
        return
    model = load_model(args)
    if is_segmentation(args.config):
        seg_demo.demo(model, images, files, args.ground_truth)
    else:
        demo_detector(model, args, images, files)
    print(f'{len(images)} images drawn -> {files[0] if args.grid else args.out}')


def demo_detector(
    model: torch.nn.Module, args: argparse.Namespace, images: list[Path], files: list[Path]
) -> None:
    truth = None
    if args.ground_truth:
        truth = GroundTruth(args.ground_truth, images, model.dataset_meta['classes'])
    titles = ['image', 'ground truth', 'prediction'] if truth else ['image', 'prediction']
    painter = Painter(model.dataset_meta, args.score_thr, grey=bool(args.grid or truth))
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for path, file in zip(tqdm(images, desc='demo', unit='image'), files, strict=True):
        found = inference_detector(model, str(path)).pred_instances
        row = painter.row(path, found, truth[path] if truth else None)
        if args.grid:
            rows.append(row)
        else:
            picture = sheet([row], titles) if truth else Image.fromarray(row[-1])
            picture.save(file)
    if args.grid:
        sheet(rows, titles).save(files[0])


def main(argv: list[str] | None = None) -> None:
    run_command(demo, argv)


if __name__ == '__main__':
    main()
