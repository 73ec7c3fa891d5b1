# SPDX-License-Identifier: Apache-2.0
"""The first name of :mod:`carafe_plugin.runtime`, which configs in work_dirs hold."""

from .runtime import *  # noqa: F403
