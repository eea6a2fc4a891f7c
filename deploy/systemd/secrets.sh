#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# For a host with the embedded switch: makes its password, unless it has one, and the URL with it that the other
# services read, unless they have one. As root, once the users of sysusers.conf are there; nothing is shown.
#
#   deploy/systemd/secrets.sh [ROOT]      # ROOT instead of /, for an image or a test
set -euo pipefail
umask 077
root=${1:-}
password=$root/var/lib/message-switch/password
url=$root/etc/xenopsd/amqp-url

own() { # USER PATH: as far as we may; what an ordinary user makes below a ROOT stays his
  if [ "$(id -u)" = 0 ] && id "$1" >/dev/null 2>&1; then chown "$1:$1" "$2"; fi
}

mkdir -p "$(dirname "$password")"
own message-switch "$(dirname "$password")"
if [ ! -e "$password" ]; then
  head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$password"
  own message-switch "$password"
fi

install -d -m 755 "$(dirname "$url")"
if [ ! -e "$url" ]; then
  quoted=$(python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.stdin.read().strip(), safe=""))' <"$password")
  printf 'amqp://xenops:%s@127.0.0.1:5672/%%2F\n' "$quoted" >"$url"
  own xenopsd "$url"
fi
