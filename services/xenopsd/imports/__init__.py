# SPDX-License-Identifier: Apache-2.0
"""Metadata that comes from outside, to be registered."""
