# SPDX-License-Identifier: Apache-2.0
"""Time and memory of whole upsamplers (torch alone) and of whole models (needs their OpenMMLab package)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from carafe_plugin.upsamplers import UPSAMPLERS, Upsampler, build_upsampler

from .timing import Timing, measure, one_line, peak_memory


class ModelError(Exception):
    """What was asked for cannot be measured; the message is one line."""


def measure_upsamplers(
    names: Sequence[str], size: tuple[int, int, int, int], device: str, seconds: float
) -> list[dict]:
    """Forward and training step of whole upsamplers by 2, all against each other.

    Args:
        names: registered names.
        size: of the input, (N, C, H, W).
        device: 'cpu' or 'cuda'.
        seconds: to spend on each measurement.

    Returns:
        A row for each upsampler; one that does not run has its error under ``failed``.
    """
    x, guide, grad = (_random(size, scale, device) for scale in (1, 2, 2))
    label = 'x'.join(map(str, size))
    runs: dict[str, Callable] = {}
    rows = {name: dict(size=label, upsampler=name) for name in names}
    for name in names:
        try:
            layer = _layer(name, size[1], 2, device)
        except Exception as error:  # whatever a constructor raises
            rows[name]['failed'] = one_line(error)
            continue
        rows[name]['parameters'] = sum(p.numel() for p in layer.parameters())
        forward, step = _layer_runs(layer, x, guide if layer.needs_guide else None, grad)
        runs |= {f'{name} forward': forward, f'{name} step': step}
    timings, failed = measure(runs, device, seconds)
    for name, row in rows.items():
        error = failed.get(f'{name} forward') or failed.get(f'{name} step')
        if 'failed' in row or error:
            row.setdefault('failed', error)
            continue
        for kind in ('forward', 'step'):
            run = f'{name} {kind}'
            row[f'{kind}_ms'] = round(timings[run].median, 4)
            row[f'{kind}_spread'] = spread(timings[run])
            peak = peak_memory(runs[run], device)
            row[f'{kind}_peak_MB'] = None if peak is None else round(peak / 1e6, 2)
    return list(rows.values())


def upsampler_forward(
    name: str, size: tuple[int, int, int, int], scale_factor: int, device: str
) -> Callable[[], torch.Tensor]:
    """The forward of an upsampler on random data of ``size``, without gradients."""
    layer = _layer(name, size[1], scale_factor, device)
    guide = _random(size, scale_factor, device) if layer.needs_guide else None
    return _layer_runs(layer, _random(size, 1, device), guide, None)[0]


def _layer(name: str, channels: int, scale_factor: int, device: str) -> Upsampler:
    torch.manual_seed(0)
    guide_channels = channels if UPSAMPLERS.get(name).needs_guide else None
    layer = build_upsampler(dict(type=name), channels, scale_factor, guide_channels=guide_channels)
    return layer.to(device)


def _random(size: tuple[int, int, int, int], scale: int, device: str) -> torch.Tensor:
    n, channels, height, width = size
    generator = torch.Generator(device).manual_seed(scale)
    return torch.randn(n, channels, scale * height, scale * width, generator=generator, device=device)


def _layer_runs(layer, x, guide, grad) -> tuple[Callable, Callable]:
    leaves = [x.detach().requires_grad_(), *layer.parameters()]

    @torch.no_grad()
    def forward():
        return layer(x, guide)

    def step():
        # Some parameters may have no part in a result, such as a branch for other sizes.
        return torch.autograd.grad(layer(leaves[0], guide), leaves, grad, allow_unused=True)

    return forward, step


def spread(timing: Timing) -> str:
    return f'{timing.spread:.0%}{" noisy" if timing.noisy else ""}'


def measure_model(
    config: str, image_size: Sequence[int], batch: int, device: str, seconds: float
) -> list[dict]:
    """Inference and training step of a config's model.

    Raises:
        ModelError: as :func:`model_runs`, or a run failed.
    """
    runs = model_runs(config, image_size, batch, device)
    timings, failed = measure(runs, device, seconds)
    if failed:
        raise ModelError('; '.join(f'{name}: {error}' for name, error in failed.items()))
    rows = []
    for name, run in runs.items():
        peak = peak_memory(run, device)
        timing = timings[name]
        rows.append(
            {
                'what': name,
                'median ms': timing.median,
                'min ms': timing.minimum,
                'spread': spread(timing),
                'peak MB': None if peak is None else peak / 1e6,
            }
        )
    return rows


def model_runs(config: str, image_size: Sequence[int], batch: int, device: str) -> dict[str, Callable]:
    """Inference and training step (loss and gradients, no optimizer) of a config's model, on random data.

    Raises:
        ModelError: the config cannot be read or built, or its model is of an unknown kind.
    """
    try:
        from mmengine.config import Config
        from mmengine.registry import init_default_scope
    except ImportError as error:
        raise ModelError(f'a config needs mmengine: {error}') from error
    if not Path(config).is_file():
        raise ModelError(f'{config}: no such config')
    try:
        cfg = Config.fromfile(config)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        model = _build(cfg).to(device)
    except Exception as error:  # whatever a config or a constructor raises
        raise ModelError(f'{config}: {one_line(error)}') from error
    scope = cfg.get('default_scope')
    makers = dict(mmdet=_detection_data, mmseg=_segmentation_data)
    if scope not in makers:
        raise ModelError(f'{config}: default_scope must be one of {", ".join(makers)}, got {scope!r}')
    torch.manual_seed(0)
    data = makers[scope](model, batch, *image_size)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def inference():
        model.eval()
        with torch.no_grad():
            return model.test_step(data)

    def step():
        model.train()
        inputs = model.data_preprocessor(data, training=True)
        losses, _ = model.parse_losses(model.loss(inputs['inputs'], inputs['data_samples']))
        return torch.autograd.grad(losses, parameters, allow_unused=True)

    return {'inference': inference, 'training step': step}


def _build(cfg):
    from mmengine.registry import MODELS

    cfg.model.pop('pretrained', None)
    if 'backbone' in cfg.model:  # weights change no time, and would have to be downloaded
        cfg.model.backbone.pop('init_cfg', None)
    return MODELS.build(cfg.model)


def _detection_data(model, batch: int, height: int, width: int) -> dict:
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        batch,
        [(3, height, width)] * batch,
        num_items=[8] * batch,
        num_classes=2,  # labels 0 and 1 (RPN's own head counts one class, and sets its labels itself)
        with_mask=bool(getattr(model, 'with_mask', False)),
        with_semantic=hasattr(model, 'semantic_head'),
    )


def _segmentation_data(model, batch: int, height: int, width: int) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(batch):
        labels = torch.randint(model.num_classes, (1, height, width))
        meta = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width))
        samples.append(SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels)))
    images = [torch.randint(256, (3, height, width), dtype=torch.uint8) for _ in range(batch)]
    return dict(inputs=images, data_samples=samples)
