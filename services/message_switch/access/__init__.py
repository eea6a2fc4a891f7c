# SPDX-License-Identifier: Apache-2.0
"""Who comes in, and how they prove it."""
