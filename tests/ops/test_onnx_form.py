# SPDX-License-Identifier: Apache-2.0
"""The operators as ONNX graphs hold them: against the definition, at the sizes where tiles end."""

import pytest
import torch

from carafe_plugin.ops import onnx_form
from tests import reference as oracle
from tests.tolerances import OPERATOR, within

T = onnx_form.TILE
# A map smaller than a tile, tiles that fit, one pixel less and one more.
SIZES = [(1, 1), (T, 2 * T), (T - 1, 2 * T + 1)]


def assert_equal(output, exact, dtype):
    exact = torch.from_numpy(exact)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, **within(OPERATOR[dtype], exact))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('k, groups, s', [(5, 1, 2), (3, 2, 3), (1, 4, 1), (7, 1, 4), (3, 1, 1)])
def test_matches_the_definition(k, groups, s, size, dtype):
    generator = torch.Generator().manual_seed(k)

    def random(channels, height, width):
        x = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64).to(dtype)
        return x, x.double().numpy()

    h, w = size
    (features, exact), (logits, exact_logits) = random(2 * groups, h, w), random(groups * (k * s) ** 2, h, w)
    (masks, exact_masks), (output, exact_output) = (
        random(channels, h * s, w * s) for channels in (groups * k * k, 2 * groups)
    )
    assert_equal(
        onnx_form.carafe(features, masks, k, groups, s),
        oracle.reassemble(exact, exact_masks, k, groups, s),
        dtype,
    )
    softmax = oracle.softmax(oracle.shuffle(exact_logits, s), k, groups)
    assert_equal(
        onnx_form.carafe_softmax(features, logits, k, groups, s),
        oracle.reassemble(exact, softmax, k, groups, s),
        dtype,
    )
    assert_equal(
        onnx_form.correlate(output, features, k, groups, s),
        oracle.correlate(exact_output, exact, k, groups, s),
        dtype,
    )
    # Down, from the finer map to masks of the coarser one, and from one with a row too many.
    fine, exact_fine = random(2 * groups, h * s - s + 1, w * s)
    masks, exact_masks = random(groups * k * k, h, w)
    assert_equal(
        onnx_form.carafe(fine, masks, k, groups, s, down=True),
        oracle.reassemble(exact_fine, exact_masks, k, groups, s, down=True),
        dtype,
    )
    assert_equal(
        onnx_form.carafe_softmax(fine, masks, k, groups, s, down=True),
        oracle.reassemble(exact_fine, oracle.softmax(exact_masks, k, groups), k, groups, s, down=True),
        dtype,
    )
