# SPDX-License-Identifier: Apache-2.0
"""Who does it: one package a hypervisor, loaded by name and imported by nobody."""
