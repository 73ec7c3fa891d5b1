# SPDX-License-Identifier: Apache-2.0
"""Where the CUDA kernels are proven: ``tools/gpu_check.sh`` passed on such a GPU, with these very sources."""

import os

#: Compute capability, and hash of the CUDA sources; ``tools/gpu_check.sh`` prints the entry to add.
PROVEN: frozenset[tuple[str, str]] = frozenset(
    [
        ('9.0', 'cc6db75d1e38dc73'),  # NVIDIA H200, torch 2.11.0+cu130, 2026-11-27
    ]
)


def why_unproven(capability: str, sources: str) -> str | None:
    """Why kernels from ``sources`` do not serve on a compute capability, in a clause; None where they do."""
    if (capability, sources) in PROVEN or os.environ.get('CARAFE_CUDA_KERNELS') == '1':
        return None
    return (
        f'its CUDA kernels have not passed tools/gpu_check.sh on compute capability {capability}; '
        'CARAFE_CUDA_KERNELS=1 in the environment runs them all the same'
    )
