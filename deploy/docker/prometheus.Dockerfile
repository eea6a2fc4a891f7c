# SPDX-License-Identifier: Apache-2.0
# Prometheus as Debian has it; docker-compose.yml mounts deploy/prometheus.
ARG BASE_IMAGE=xenopsd/debian-base
FROM $BASE_IMAGE
RUN apt-get update -qq && apt-get install -qq --no-install-recommends -y prometheus >/dev/null \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o prometheus -g prometheus /var/lib/prometheus
USER prometheus
VOLUME /var/lib/prometheus
EXPOSE 9090
ENTRYPOINT ["/usr/bin/prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/var/lib/prometheus"]
