# SPDX-License-Identifier: Apache-2.0
"""A machine's console on a person's terminal, or in the hands of a script."""
