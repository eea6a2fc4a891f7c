# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told of the bus, whichever bus it is."""

from prometheus_client import Counter

reconnects = Counter("bus_reconnects_total", "Connections to the switch made again after one was lost")
published = Counter("bus_published_total", "Messages handed to the switch", ["direction"])
dropped_events = Counter(
    "bus_dropped_events_total", "Events not sent, since there was no connection or it was too slow"
)

requests = published.labels("request")
replies = published.labels("reply")
events = published.labels("event")
