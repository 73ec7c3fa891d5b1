# SPDX-License-Identifier: Apache-2.0
"""The public local similarity: native and reference against the loops."""

import pytest
import torch

from carafe_plugin.ops import correlate, reference
from tests import reference as oracle
from tests.tolerances import OPERATOR, within


def case(c=6, size=(4, 5), s=2, dtype=torch.float64):
    torch.manual_seed(0)
    output = torch.randn(2, c, *(s * n for n in size), dtype=dtype, requires_grad=True)
    return output, torch.randn(2, c, *size, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize('k, groups, s', [(3, 1, 1), (5, 1, 2), (3, 2, 2), (5, 3, 3), (7, 2, 1)])
def test_both_paths_equal_the_definition(k, groups, s):
    output, features = case(s=s)
    expected = torch.tensor(
        oracle.correlate(output.detach().numpy(), features.detach().numpy(), k, groups, s)
    )
    for function in (correlate, reference.correlate):
        masks = function(output, features, k, groups, s)
        torch.testing.assert_close(masks, expected)
        got = torch.autograd.grad((masks * expected).sum(), (output, features))
        torch.testing.assert_close(
            got,
            (
                torch.tensor(oracle.reassemble(features.detach().numpy(), expected.numpy(), k, groups, s)),
                torch.tensor(oracle.scatter(output.detach().numpy(), expected.numpy(), 4, 5, k, groups, s)),
            ),
        )


@pytest.mark.parametrize('function', [correlate, reference.correlate])
def test_16_bit_sums_are_float32(function):
    output, features = (t.detach() for t in case(c=512, dtype=torch.bfloat16))
    masks = function(output, features, 3, 1, 2)
    exact = function(output.double(), features.double(), 3, 1, 2)
    assert masks.dtype == torch.bfloat16
    assert (masks.double() - exact).abs().max() <= exact.abs().max() / 256
    with torch.autocast('cpu', torch.bfloat16):  # nothing is rounded to 16 bits where one side has 32
        mixed = function(output.float(), features, 3, 1, 2)
    torch.testing.assert_close(mixed.double(), exact, **within(OPERATOR[torch.float32], exact))


@pytest.mark.parametrize(
    'error, match, change',
    [
        (ValueError, 'kernel_size must be odd, got 4', dict(kernel_size=4)),
        (ValueError, 'divisible by group_size=4, got 6', dict(group_size=4)),
        (
            ValueError,
            r'output must have shape \(N, C, s\*H, s\*W\) = \(2, 6, 12, 15\)',
            dict(scale_factor=3),
        ),
        (TypeError, 'output must be a tensor', dict(output=None)),
        (TypeError, 'must have one dtype', dict(features=torch.rand(2, 6, 4, 5))),
    ],
)
def test_bad_calls(error, match, change):
    output, features = case()
    with pytest.raises(error, match=match):
        correlate(**(dict(output=output, features=features, kernel_size=3) | change))
