#!/usr/bin/env bash
# Puts the real programs that Barque is compared with under DIR, where this machine lacks them:  tests/peers.sh DIR
# etcd 3.5.16 always; kubectl where none is on the PATH. Nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mkdir -p "$1" && cd "$1" && pwd)
bench/peer-etcd.sh "$dir"
if command -v kubectl >/dev/null || [ -x "$dir/usr/bin/kubectl" ]; then exit 0; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tests/fetch-newer.sh "$scratch" kubectl/trixie
for package in "$scratch"/*.deb; do dpkg-deb -x "$package" "$dir"; done
"$dir/usr/bin/kubectl" version --client
