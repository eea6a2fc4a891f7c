# SPDX-License-Identifier: Apache-2.0
"""The command line of an operator: everything that xenopsd can do, from a terminal or a script."""

VERSION = "0.1.0"
