#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the broker's users and the environment files that docker-compose.yml reads, in var/docker, which git ignores.
# Passwords are made once and never shown.
set -euo pipefail
cd "$(dirname "$0")/../.."
host=composed
python3 deploy/rabbitmq/definitions.py var/docker --broker rabbitmq:5672 "$host"
cd var/docker
chmod 644 definitions.json # hashes of passwords; the folder itself is private, the broker's container reads the file
(
  umask 077
  url=$(cat "host-$host.url")
  for service in XENOPSD FORKEXECD VNCPROXY; do
    printf '%s_HOST=%s\n%s_AMQP_URL=%s\n' "$service" "$host" "$service" "$url"
  done >services.env
  printf 'XENOPS_URL=%s\nXENOPS_QUEUE=xenops.%s.simulator\n' "$(cat clients.url)" "$host" >client.env
)
