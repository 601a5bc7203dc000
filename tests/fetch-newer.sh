#!/usr/bin/env bash
# Downloads packages of Debian's suite trixie into DIR, from whatever mirror this machine's apt is set up with:
#   tests/fetch-newer.sh DIR PACKAGE[=VERSION]...
# Nothing is installed, and the machine's own apt lists are only read. The caller checks and unpacks.
set -euo pipefail
fail() { echo "fetch-newer: $*" >&2; exit 1; }
[ $# -ge 2 ] || fail "usage: fetch-newer.sh DIR PACKAGE[=VERSION]..."
dir=$(mkdir -p "$1" && cd "$1" && pwd)
shift
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
[ -n "$site" ] || fail "apt knows no package mirror (is there a sources list, and did apt-get update run?)"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
signed=
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] && signed="[signed-by=$keyring] "
echo "deb ${signed}$site trixie main" > "$scratch/sources"
own=(-o Dir::Etc::sourcelist="$scratch/sources" -o Dir::Etc::sourceparts=/dev/null
     -o Dir::State::lists="$scratch/lists" -o Dir::Cache="$scratch/cache" -o APT::Sandbox::User=root)
apt-get "${own[@]}" update -qq || fail "the mirror's index of trixie cannot be read"
cd "$dir"
apt-get "${own[@]}" download -qq "$@" || fail "the mirror does not have: $*"
