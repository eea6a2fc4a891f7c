# SPDX-License-Identifier: Apache-2.0
"""The real hypervisor; its door is `backend`. Nothing is imported here: the builder processes live in this package too."""
