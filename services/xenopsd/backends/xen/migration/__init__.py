# SPDX-License-Identifier: Apache-2.0
"""A guest's way from one domain of this host to another."""
