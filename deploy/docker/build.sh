#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the images of docker-compose.yml from Debian packages alone: no image is pulled. On a machine that can pull,
#
#   BASE_IMAGE=debian:12-slim deploy/docker/build.sh
#
# begins with that one instead. Takes Debian's mmdebstrap (for the base) and the virtual environment of `make setup`.
set -euo pipefail
cd "$(dirname "$0")/../.."
base=${BASE_IMAGE:-xenopsd/debian-base}
context=build/docker
mkdir -p "$context"

if [ -z "${BASE_IMAGE:-}" ] && ! docker image inspect "$base" >/dev/null 2>&1; then
  echo "==> $base: a minimal Debian 12"
  # Not through a pipe: of half a system docker would make an image, and the next run would build upon it.
  mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm build/base.tar
  docker import build/base.tar "$base" >/dev/null
  rm build/base.tar
fi

echo "==> wheels of the locked versions"
rm -rf "$context/wheelhouse"
sed -n 's/^\([a-z0-9][^ ]*==[^ ]*\).*/\1/p' requirements.lock >"$context/constraints.txt"
.venv/bin/pip wheel --quiet --disable-pip-version-check --no-build-isolation \
  --constraint "$context/constraints.txt" --wheel-dir "$context/wheelhouse" '.[cli]'

image() { # NAME DOCKERFILE
  echo "==> xenopsd/$1"
  if ! docker build --build-arg "BASE_IMAGE=$base" --tag "xenopsd/$1" --file "deploy/docker/$2.Dockerfile" "$context" >"$context/$1.log" 2>&1; then
    cat "$context/$1.log" >&2
    exit 1
  fi
}
image rabbitmq rabbitmq
image prometheus prometheus
image stack stack
