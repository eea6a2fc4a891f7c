# SPDX-License-Identifier: Apache-2.0
"""forkexecd runs programs on behalf of the other services, which never fork themselves."""
