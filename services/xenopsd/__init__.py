# SPDX-License-Identifier: Apache-2.0
"""Domain operations: the one service that issues hypercalls."""
