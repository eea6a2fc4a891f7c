# SPDX-License-Identifier: Apache-2.0
"""A machine goes from one xenopsd to another, and ends with exactly one of them, whatever happens on the way."""
