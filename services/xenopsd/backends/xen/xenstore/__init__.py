# SPDX-License-Identifier: Apache-2.0
"""xenstore, the tree in which domains, their devices and the toolstack leave notes for each other."""
