# SPDX-License-Identifier: Apache-2.0
"""TLS for those who come from other hosts: 1.2 or newer, and client certificates where an authority is named."""

import ssl
from pathlib import Path
from typing import Any


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Raises OSError (`ssl.SSLError` is one) that names the file which is missing or wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in filter(None, (certificate, key, client_ca)):
        path.open("rb").close()  # the library's own error does not say which file it is
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def common_name(certificate: dict[str, Any] | None) -> str:
    """Whom a client's certificate, already verified, names; empty if there is none."""
    subject = (certificate or {}).get("subject", ())
    return next((value for part in subject for key, value in part if key == "commonName"), "")
