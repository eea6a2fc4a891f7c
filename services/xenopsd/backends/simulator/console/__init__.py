# SPDX-License-Identifier: Apache-2.0
"""The simulated guests' consoles on real Unix sockets."""
