# SPDX-License-Identifier: Apache-2.0
"""The version of this distribution, for whoever tells it: asking the installed package for it reads some thirty modules."""

VERSION = "0.1.0"
