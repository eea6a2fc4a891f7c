# SPDX-License-Identifier: Apache-2.0
"""The small languages within the strings of `disk`, `vif` and `pci`: each read and written in one place."""
