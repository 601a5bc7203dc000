#!/usr/bin/env bash
# Unpacks the etcd that the benchmarks and comparisons run against, 3.5.16, under DIR and prints the path of its server:
#   bench/peer-etcd.sh DIR
# Nothing is installed. The packages are Debian trixie's, from whatever mirror this machine's apt is set up with; a
# package whose sha256 is not the one below is refused. When they cannot be had this fails, and so does what needs them.
set -euo pipefail

version=3.5.16
revision=$version-4
server_sha256=0875921bb0d023f2af9b8e15cdfbe417a03e65731345fb832c40f9c2dd72967b
client_sha256=7eb67e305ba2ce523a5a0b29bf88750ded3f724769c7111a83382b7909f9977b

fail() { echo "peer-etcd: $*" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: peer-etcd.sh DIR"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
etcd=$dir/usr/bin/etcd

# The whole output is read before it is searched: a grep that stops early would fail etcd by SIGPIPE.
is_there() { local said; [ -x "$etcd" ] && said=$("$etcd" --version 2>/dev/null) && [[ $said == *"etcd Version: $version"* ]]; }
if is_there; then echo "$etcd"; exit 0; fi

[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || fail "the pinned packages are for amd64 Debian machines"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fetch=$(cd "$(dirname "$0")/../tests" && pwd)/fetch-newer.sh
"$fetch" "$scratch" "etcd-server=$revision" "etcd-client=$revision" || fail "etcd $revision cannot be had"
cd "$scratch"
echo "$server_sha256  etcd-server_${revision}_amd64.deb
$client_sha256  etcd-client_${revision}_amd64.deb" | sha256sum --quiet -c - >&2 || fail "a package is not the expected one"
for package in *.deb; do dpkg-deb -x "$package" "$dir"; done
is_there || fail "the unpacked etcd does not run"
echo "$etcd"
