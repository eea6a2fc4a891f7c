# SPDX-License-Identifier: Apache-2.0
"""What is asked: one file a verb, each a value that knows its plan. Pure."""
