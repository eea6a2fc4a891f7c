#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the images, brings the composed stack up under a name of its own, runs tests/docker against it, and takes it
# down with its volumes. Where no docker engine answers it starts one of its own (as root, with Debian's docker.io),
# and ends it afterwards. Its secrets are in var/docker, as those of the stack that docker-compose.yml starts.
set -euo pipefail
cd "$(dirname "$0")/../.."

ENGINE=${XENOPS_ENGINE:-/var/tmp/xenops-docker} # images are kept here for the next time
ENGINE_S=60
engine=

compose() {
  if command -v docker-compose >/dev/null; then docker-compose "$@"; else docker compose "$@"; fi
}

start_engine() {
  if docker info >/dev/null 2>&1; then
    echo "==> docker engine: the one that answers"
    return
  fi
  if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
    echo "test.sh: no docker engine answers, and starting one takes root and Debian's docker.io" >&2
    exit 1
  fi
  echo "==> docker engine: one of our own in $ENGINE"
  mkdir -p -m 700 "$ENGINE"
  export DOCKER_HOST=unix://$ENGINE/socket
  setsid dockerd --data-root "$ENGINE/data" --exec-root "$ENGINE/run" --pidfile "$ENGINE/pid" -H "$DOCKER_HOST" \
    >"$ENGINE/log" 2>&1 </dev/null &
  engine=$!
  local until=$((SECONDS + ENGINE_S))
  until docker info >/dev/null 2>&1; do
    if ! kill -0 "$engine" 2>/dev/null || [ $SECONDS -gt $until ]; then
      echo "test.sh: the docker engine did not start; its log ends with:" >&2
      tail -20 "$ENGINE/log" >&2
      exit 1
    fi
    sleep 0.2
  done
}

finish() {
  local code=$?
  trap - EXIT
  set +e
  if [ -n "${up:-}" ]; then
    if [ $code != 0 ]; then compose ps && compose logs --no-color --tail=200; fi
    compose down --volumes --timeout 20 >/dev/null 2>&1
  fi
  if [ -n "$engine" ]; then
    kill "$engine" 2>/dev/null
    wait "$engine" 2>/dev/null
  fi
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

start_engine
deploy/docker/build.sh
deploy/docker/secrets.sh
# Not 0: a container that is started again would get another port, and its clients would look in vain.
free_port() { python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'; }
HOST_PORT_AMQP=$(free_port) HOST_PORT_PROMETHEUS=$(free_port)
export COMPOSE_PROJECT_NAME=xenops-test HOST_PORT_AMQP HOST_PORT_PROMETHEUS
echo "==> the composed stack"
up=yes
compose up -d
echo "==> tests"
TESTCONTAINERS_RYUK_DISABLED=true .venv/bin/pytest -m docker "${@:-tests/docker}"
