# SPDX-License-Identifier: Apache-2.0
"""Who answers: a service's own description."""

from msgspec import field

from xenops.types.record import Record


class ServiceInfo(Record, frozen=True, kw_only=True):
    """What `query` answers; `instance_id` is new at every start of the service."""

    name: str
    vendor: str = "xenopsd"
    version: str
    interface: str
    features: list[str] = field(default_factory=list)
    instance_id: str
    host: str
    instance: str
    queue: str
