# SPDX-License-Identifier: Apache-2.0
"""What hosts of more than one toolbox are made of; each host package names what is its users'."""
