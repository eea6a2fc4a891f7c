# SPDX-License-Identifier: Apache-2.0
"""QEMU, where it serves guests: what it is started with, how it is spoken to, and its life from start to end."""
