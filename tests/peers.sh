#!/usr/bin/env bash
# Puts the real programs that Barque is compared with under DIR:  tests/peers.sh DIR
# etcd 3.5.16 (always) and kubectl (where none is on the PATH), from the distribution's newer suite, through the package mirror this
# machine is configured with. A package whose sha256 is not the expected one is refused. Nothing is installed.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
want=()
[ -x "$dir/usr/bin/etcd" ] && "$dir/usr/bin/etcd" --version | grep -q '3\.5\.16' || want+=(etcd-server=3.5.16-4 etcd-client=3.5.16-4)
command -v kubectl >/dev/null || [ -x "$dir/usr/bin/kubectl" ] || want+=(kubernetes-client)
[ ${#want[@]} -eq 0 ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
[ -n "$site" ] || { echo "peers: no package mirror is configured; run apt-get update first" >&2; exit 1; }
signed=
key=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $key ] && signed="[signed-by=$key] "
echo "deb $signed$site trixie main" > "$work/sources"
opts=(-o Dir::Etc::sourcelist="$work/sources" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root)
apt-get "${opts[@]}" update -qq
cd "$work"
apt-get "${opts[@]}" download -qq "${want[@]}"
sums() { cat <<'SUMS'
0875921bb0d023f2af9b8e15cdfbe417a03e65731345fb832c40f9c2dd72967b  etcd-server_3.5.16-4_amd64.deb
7eb67e305ba2ce523a5a0b29bf88750ded3f724769c7111a83382b7909f9977b  etcd-client_3.5.16-4_amd64.deb
SUMS
}
if ls etcd-server_*.deb >/dev/null 2>&1; then sums | sha256sum --quiet -c -; fi
for package in *.deb; do dpkg -x "$package" "$dir"; done
