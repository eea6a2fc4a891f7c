# SPDX-License-Identifier: Apache-2.0
"""How values look to a person; nothing here reads a file, a clock or a terminal."""
