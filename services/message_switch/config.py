# SPDX-License-Identifier: Apache-2.0
"""The switch's settings."""

from typing import Annotated

from msgspec import Meta

from xenops.service.settings import Settings


class SwitchSettings(Settings, frozen=True, kw_only=True):
    """A small single-host message switch that speaks AMQP 0-9-1."""

    host: Annotated[str, Meta(description="address to listen on; empty for no TCP at all")] = "127.0.0.1"
    port: Annotated[int, Meta(description="TCP port to listen on; 0 takes a free one", ge=0, le=65535)] = 5672
    socket: Annotated[
        str, Meta(description="Unix socket to listen on (mode 0600, with a users-file 0666); empty for none")
    ] = ""
    tls_host: Annotated[str, Meta(description="address to listen on with TLS; empty for none")] = ""
    tls_port: Annotated[int, Meta(description="port to listen on with TLS; 0 takes a free one", ge=0, le=65535)] = 5671
    tls_certificate: Annotated[str, Meta(description="file with our certificate and its chain (PEM)")] = ""
    tls_key: Annotated[str, Meta(description="file with its private key (PEM)")] = ""
    tls_client_ca: Annotated[
        str, Meta(description="file with the authorities whose certificates log in the user they name; empty for none")
    ] = ""
    data: Annotated[str, Meta(description="directory of the journal and of the file `port`")] = (
        "/var/lib/xenopsd/message-switch"
    )
    user: Annotated[str, Meta(description="the switch's own user, who may do everything")] = "xenops"
    password_file: Annotated[
        str,
        Meta(description="file with that user's password; made with a random one if missing (empty: DATA/password)"),
    ] = ""
    users_file: Annotated[
        str, Meta(description="file with more users and what each may do; read again on SIGHUP; empty for none")
    ] = ""
    heartbeat: Annotated[
        int, Meta(description="seconds between heartbeats that we propose; 0 for none", ge=0, le=65535)
    ] = 60
    frame_max: Annotated[int, Meta(description="largest frame in bytes", ge=4096, le=1 << 24)] = 131072
    body_max: Annotated[int, Meta(description="largest message body in bytes", ge=1024, le=1 << 30)] = 16 << 20
    channel_max: Annotated[int, Meta(description="channels per connection", ge=1, le=65535)] = 2047
    memory_max: Annotated[
        int,
        Meta(description="bytes of waiting messages at which new ones are refused; at 4/5 publishers wait", ge=1 << 20),
    ] = 512 << 20
    journal_rewrite: Annotated[int, Meta(description="journal size in bytes from which it is compacted", ge=4096)] = (
        16 << 20
    )
    metrics_host: Annotated[str, Meta(description="address of the Prometheus metrics")] = "127.0.0.1"
    metrics_port: Annotated[int, Meta(description="port of the Prometheus metrics; 0 for none", ge=0, le=65535)] = 0
    log_level: Annotated[
        str, Meta(description="debug, info, warning or error", pattern="^(debug|info|warning|error)$")
    ] = "info"
