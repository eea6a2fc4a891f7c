# SPDX-License-Identifier: Apache-2.0
"""What every service process has in common: settings, logs, metrics, start and stop."""
