# SPDX-License-Identifier: Apache-2.0
"""Data sets that the project makes itself."""

from .shapes import CATEGORIES, make_shapes

__all__ = ['CATEGORIES', 'make_shapes']
