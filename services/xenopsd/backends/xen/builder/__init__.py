# SPDX-License-Identifier: Apache-2.0
"""Building, saving, restoring and dumping domains, in processes of xenopsd's own that may die without harm."""
