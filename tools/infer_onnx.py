#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Draw what a whole model in an ONNX file finds: python tools/infer_onnx.py IMAGE... --model FILE.onnx.

For files of `tools/export_onnx.py --whole`. Each image gives OUT/NAME.png: boxes and masks of a detector, the
label map of a segmentor. This file stands alone: it needs numpy, opencv-python and onnxruntime or openvino.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

try:
    import cv2
except ImportError:
    sys.exit('error: opencv-python is missing: pip install opencv-python-headless')

KEY = 'carafe_plugin'  # of the metadata in the file; also the domain of its own operators
FORMAT = 1  # of the metadata
DOMAIN_VERSION = 1
FONT = cv2.FONT_HERSHEY_SIMPLEX
SIDE = 480  # smaller images are drawn enlarged to about this
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')  # of images in a folder
STAGES = ('read', 'resize', 'run', 'draw')


class UserError(Exception):
    """What the user gave cannot work; the message names the cause."""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message, whose bytes are taken as they are.

    Raises:
        ValueError: the bytes are no such message.
    """

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at
            if shift > 63:
                raise ValueError('no number of 64 bits')

    at = 0
    try:
        while at < len(data):
            tag, at = varint(at)
            kind = tag & 7
            if kind == 0:
                value, at = varint(at)
            else:
                size, at = varint(at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
                value, at = data[at : at + size], at + size
            yield tag >> 3, value
    except (IndexError, KeyError) as error:
        raise ValueError('no protobuf message') from error
    if at != len(data):
        raise ValueError('cut off')


def read_header(path: Path) -> tuple[dict, dict[str, int]]:
    """The metadata that `tools/export_onnx.py --whole` wrote, and the version of each operator domain.

    Raises:
        UserError: there is no such file, it is no ONNX file, not a whole model, or newer than this script.
    """
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    texts, domains = {}, {}
    try:
        for number, value in fields(memoryview(path.read_bytes())):
            if number == 8:  # opset_import
                opset = dict(fields(value))
                domains[str(opset.get(1, b''), 'utf-8')] = opset.get(2, 0)
            elif number == 14:  # metadata_props
                pair = dict(fields(value))
                texts[str(pair[1], 'utf-8')] = str(pair[2], 'utf-8')
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not an ONNX file') from error
    if not domains:
        raise UserError(f'{path}: not an ONNX file')
    if KEY not in texts:
        raise UserError(f'{path}: not a whole model, which tools/export_onnx.py --whole writes')
    try:
        meta = json.loads(texts[KEY])
        version = meta['format']
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: its metadata {KEY} are no description of a whole model') from error
    if version != FORMAT:
        raise UserError(f'{path} has format {version} of a whole model, this script reads {FORMAT}')
    if domains.get(KEY, DOMAIN_VERSION) != DOMAIN_VERSION:
        raise UserError(
            f'{path} needs version {domains[KEY]} of the operators of {KEY}, '
            f'this script knows {DOMAIN_VERSION}'
        )
    return meta, domains


def load(path: Path, runtime: str, extension: Path | None) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Make a runtime ready; returns the function from images (1, 3, H, W) to the outputs in their order.

    Raises:
        UserError: the runtime is not installed, or refuses the file or the extension.
    """
    _, domains = read_header(path)
    try:
        if runtime == 'onnxruntime':
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4  # errors are told once, below
            session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
            return lambda images: session.run(None, {'images': images})
        import openvino
    except ImportError as error:
        raise UserError(f'{runtime} is missing: pip install {runtime}') from error
    except Exception as error:  # onnxruntime's errors have no common class
        raise UserError(
            f'onnxruntime {onnxruntime.__version__} refuses {path} ({told(domains)}): {error}'
        ) from error
    core = openvino.Core()
    try:
        if extension:
            core.add_extension(extension)
        compiled = core.compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    except (RuntimeError, TypeError) as error:
        hint = f'; its operators of {KEY} need --extension' if KEY in domains and not extension else ''
        raise UserError(
            f'openvino {openvino.__version__} refuses {path} ({told(domains)}){hint}: {error}'
        ) from error
    return lambda images: [np.array(x) for x in compiled([images]).values()]


def told(domains: dict[str, int]) -> str:
    return ', '.join(f'{domain or "opset"} {version}' for domain, version in domains.items())


def read_image(path: Path) -> np.ndarray:  # -> BGR (H, W, 3)
    """Decode an image.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise UserError(f'{path}: not a readable image')
    return image


def prepare(image: np.ndarray, meta: dict) -> tuple[np.ndarray, tuple[float, float]]:
    """Resize and pad a BGR image as the model's config does.

    Returns:
        RGB, (1, 3, H, W) of float32, and the factors of width and height.
    """
    height, width = image.shape[:2]
    new = width, height
    if rule := meta['resize']:
        new = (
            tuple(int(side * rule['scale_factor'] + 0.5) for side in new)
            if 'scale_factor' in rule
            else rule['scale']
        )
        if rule['keep_ratio']:
            factor = min(max(new) / max(width, height), min(new) / min(width, height))
            new = int(width * factor + 0.5), int(height * factor + 0.5)
        if min(new) < 1:
            raise UserError(f'an image of {width} x {height} pixels is too narrow for the model')
        image = cv2.resize(image, new, interpolation=cv2.INTER_LINEAR)
    if rule := meta['pad']:
        columns, rows = [max(new)] * 2 if rule['square'] else rule['size'] or new
        if divisor := rule['divisor']:
            columns, rows = (-(-side // divisor) * divisor for side in (columns, rows))
        bottom, right = max(0, rows - new[1]), max(0, columns - new[0])
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=rule['value'])
    images = np.ascontiguousarray(image[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32)
    return images, (new[0] / width, new[1] / height)


def restore(
    outputs: list[np.ndarray], meta: dict, size: tuple[int, int], factors: tuple[float, float]
) -> dict:
    """Outputs of the graph in pixels of the original image of ``size`` (height, width).

    Returns:
        ``labels`` (H, W) of a segmentor; ``boxes`` (K, 4), ``scores``, ``labels`` and, where the model has
        them, ``masks`` (K, H, W) of bool.
    """
    if meta['task'] == 'segmentation':
        labels = outputs[0][0].astype(np.int32)
        return dict(labels=cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST))
    boxes, scores, labels, *masks = outputs
    found = dict(boxes=boxes / np.float32(factors * 2), scores=scores, labels=labels)
    if masks:
        pasted = [
            paste(*pair, size, meta['mask_threshold']) for pair in zip(masks[0], found['boxes'], strict=True)
        ]
        found['masks'] = np.array(pasted, bool).reshape(-1, *size)
    return found


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float) -> np.ndarray:
    """Where probabilities (h, w) inside a box, bilinear between, reach a threshold: bool (H, W)."""
    weights, region = [], []
    for side, count, first, last in zip(mask.shape, size, box[[1, 0]], box[[3, 2]], strict=True):
        begin = max(0, int(np.floor(first)) - 1)
        end = max(begin, min(count, int(np.ceil(last)) + 1))
        extent = max(last - first, np.float32(1e-6))
        places = (np.arange(begin, end, dtype=np.float32) + 0.5 - first) / extent * side - 0.5
        weights.append((1 - np.abs(places[:, None] - np.arange(side, dtype=np.float32))).clip(min=0))
        region.append(slice(begin, end))
    canvas = np.zeros(size, bool)
    canvas[tuple(region)] = weights[0] @ mask @ weights[1].T >= threshold
    return canvas


def draw(image: np.ndarray, found: dict, meta: dict, threshold: float) -> np.ndarray:
    """Paint on a BGR image: boxes and masks of scores above ``threshold``, or classes of pixels.

    Small images are enlarged, every pixel of a mask or label map to a block.
    """
    factor = max(1, round(SIDE / max(image.shape)))
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    colours = np.array(meta['palette'], np.float32)[:, ::-1]
    if meta['task'] == 'segmentation':
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
        return np.uint8(np.round(grey * 0.4 + colours[enlarged(found['labels'], factor)] * 0.6))
    unit = max(1, round(max(image.shape) / 640))
    order = [i for i in np.argsort(found['scores']) if found['scores'][i] > threshold]  # the best on top
    for i in order:
        colour = colours[found['labels'][i]]
        if 'masks' in found:
            mask = enlarged(found['masks'][i], factor)
            image[mask] = np.round(image[mask] * 0.5 + colour * 0.5)
            contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, contours, -1, colour.tolist(), unit)
    for i in order:
        x1, y1, x2, y2 = np.round(found['boxes'][i] * factor).astype(int).tolist()
        label = found['labels'][i]
        text = f'{meta["classes"][label]} {found["scores"][i]:.2f}'
        (wide, high), _ = cv2.getTextSize(text, FONT, 0.4 * unit, unit)
        cv2.rectangle(image, (x1, y1), (x2, y2), colours[label].tolist(), unit)
        x1, y1 = max(0, min(x1, image.shape[1] - wide)), max(0, y1)
        cv2.rectangle(image, (x1, y1), (x1 + wide, y1 + high + 2 * unit), (0, 0, 0), -1)
        cv2.putText(image, text, (x1, y1 + high + unit), FONT, 0.4 * unit, (255, 255, 255), unit, cv2.LINE_AA)
    return image


def enlarged(layer: np.ndarray, factor: int) -> np.ndarray:  # (H, W) -> (factor*H, factor*W)
    return layer.repeat(factor, 0).repeat(factor, 1)


def images_in(given: list[Path]) -> list[Path]:
    """The images themselves, and those in the folders.

    Raises:
        UserError: there is none in a folder.
    """
    paths = []
    for path in given:
        inside = sorted(p for p in path.glob('*') if p.is_file() and p.suffix.lower() in SUFFIXES)
        if path.is_dir() and not inside:
            raise UserError(f'{path}: there is no image in this folder ({", ".join(SUFFIXES)})')
        paths += inside if path.is_dir() else [path]
    return paths


def infer(argv: list[str] | None) -> None:
    """Draw all images, a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('images', nargs='+', type=Path, metavar='IMAGE', help='or a folder of them')
    parser.add_argument('--model', required=True, type=Path, metavar='FILE.onnx')
    parser.add_argument('--runtime', choices=['onnxruntime', 'openvino'], default='onnxruntime')
    parser.add_argument(
        '--extension', type=Path, help="OpenVINO's, for a file with operators of carafe_plugin"
    )
    parser.add_argument('--out', type=Path, default=Path('pictures'), help='folder; default: %(default)s')
    parser.add_argument('--score-thr', type=float, default=0.3, help='default: %(default)s')
    args = parser.parse_args(argv)
    if args.extension and args.runtime != 'openvino':
        parser.error('--extension is for --runtime openvino')
    if args.extension and not args.extension.is_file():
        raise UserError(f'--extension {args.extension}: no such file')
    paths = images_in(args.images)
    files = [args.out / f'{path.stem}.png' for path in paths]
    for path, file in zip(paths, files, strict=True):
        if files.count(file) > 1 or file.resolve() == path.resolve():
            raise UserError(f'{path}: another image is, or would be written to, {file}; choose another --out')
    meta, _ = read_header(args.model)
    clock = time.perf_counter
    start = clock()
    run = load(args.model, args.runtime, args.extension)
    print(f'{args.model} loaded by {args.runtime} in {clock() - start:.1f} s', flush=True)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out {args.out}: cannot be made a folder: {error.strerror}') from error
    for path, file in zip(paths, files, strict=True):
        times = [clock()]
        image = read_image(path)
        times.append(clock())
        images, factors = prepare(image, meta)
        times.append(clock())
        try:
            outputs = run(images)
        except Exception as error:  # of the runtime, which has its own
            size = ' x '.join(map(str, images.shape[2:]))
            raise UserError(f'{args.model} does not run on {path} at {size}: {error}') from error
        times.append(clock())
        found = restore(outputs, meta, image.shape[:2], factors)
        if not cv2.imwrite(str(file), draw(image, found, meta, args.score_thr)):
            raise UserError(f'{file}: cannot be written')
        times.append(clock())
        spent = (
            f'{name} {1000 * (b - a):.0f} ms' for name, a, b in zip(STAGES, times, times[1:], strict=False)
        )
        print(f'{file}: {", ".join(spent)}', flush=True)


def main(argv: list[str] | None = None) -> None:
    try:
        infer(argv)
    except UserError as error:
        print('error:', ' '.join(str(error).split())[:500], file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == '__main__':
    main()
