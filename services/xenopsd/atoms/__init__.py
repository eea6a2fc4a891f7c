# SPDX-License-Identifier: Apache-2.0
"""The steps: one file a noun, doing and undoing side by side."""
