# SPDX-License-Identifier: Apache-2.0
"""State dicts of released models under the names that their parts have here."""

from collections.abc import Mapping, MutableMapping

from torch import Tensor


def rename_keys(
    state: MutableMapping[str, Tensor], names: Mapping[str, str | None], prefix: str = ''
) -> bool:
    """Give keys other beginnings, in place.

    Args:
        state: a state dict, or the part of one that a module is loaded from.
        names: by the beginning of a key after ``prefix``, the new one; None drops the key.
        prefix: where in ``state`` the module stands.

    Returns:
        Whether there was a key to rename or drop.
    """
    found = [
        (key, theirs, ours)
        for theirs, ours in names.items()
        for key in state
        if key.startswith(prefix + theirs)
    ]
    for key, theirs, ours in found:
        value = state.pop(key)
        if ours is not None:
            state[prefix + ours + key.removeprefix(prefix + theirs)] = value
    return bool(found)
