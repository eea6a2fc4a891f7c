# SPDX-License-Identifier: Apache-2.0
"""The simulated host: its memory, its domains and their guests, and the shelf on which they outlive the daemon."""
