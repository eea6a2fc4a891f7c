# SPDX-License-Identifier: Apache-2.0
"""Sequence charts of what passed: who asked whom for what, and how long the answer took."""
