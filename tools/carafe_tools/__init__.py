# SPDX-License-Identifier: Apache-2.0
"""What the scripts beside this folder share; found because a script's folder is on the path."""
