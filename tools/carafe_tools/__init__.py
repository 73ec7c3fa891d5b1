# SPDX-License-Identifier: Apache-2.0
"""What the scripts beside this folder share; found because a script's folder is on the path.

Importing it puts a checkout's package on the path, installed or not; a wheel keeps its tools elsewhere.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
if (_ROOT / 'carafe_plugin').is_dir():
    sys.path.insert(0, str(_ROOT))
