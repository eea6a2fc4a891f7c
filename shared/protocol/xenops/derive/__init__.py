# SPDX-License-Identifier: Apache-2.0
"""Everything that is printed from the interfaces: the manual, the AsyncAPI document, the golden file of the API.

Pure: each module makes text of declarations; only `python -m xenops.derive` writes files. Nothing here is a second
list: what an interface does not say is not printed.
"""
