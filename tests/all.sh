#!/usr/bin/env bash
# Every check and test of the project, each suite with a hard limit; prints each suite's seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never
log=$(mktemp)
trap 'rm -f "$log"' EXIT

suite() { # NAME LIMIT_SECONDS COMMAND...
  local name=$1 limit=$2 begun=$SECONDS
  shift 2
  echo "=== $name (limit $limit s)"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee -a "$log"
  echo "=== $name took $((SECONDS - begun)) s"
}

suite peers 300 tests/peers.sh .peer
export BARQUE_PEER_ETCD=$PWD/.peer/usr/bin/etcd
command -v kubectl >/dev/null || export PATH=$PWD/.peer/usr/bin:$PATH
suite format 60 cargo fmt --all --check
suite lint 1500 cargo clippy --workspace --all-targets -- -D warnings
suite build 1500 cargo test --workspace --no-run
suite program 600 cargo build --workspace --bins
export BARQUE_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/barque
# One selection of packages throughout, so that nothing is built twice with other features.
targets() { for file in "$@"; do echo "--test $(basename "$file" .rs)"; done; }
inner=$(ls -d {store,apiserver,agents,tests}/*/tests/*.rs | grep -vE '^tests/(api|sim|nemesis|differential)/')
suite unit 600 cargo test --workspace --lib --bins -- --show-output
suite crates 600 cargo test --workspace $(targets $inner) -- --show-output
suite simulation 1200 cargo test --workspace $(targets tests/sim/tests/*.rs) -- --show-output
suite nemesis 900 cargo test --workspace $(targets tests/nemesis/tests/*.rs) -- --show-output --test-threads=1
suite differential 300 cargo test --workspace $(targets tests/differential/tests/*.rs) -- --show-output --test-threads=1
suite sled 600 cargo test -p barque-store-engine --features sled --lib -- --show-output
suite api 900 cargo test --workspace $(targets tests/api/tests/*.rs) -- --show-output --test-threads=1

# A test that cannot run says SKIP and why; only those on the list may.
skips=$(grep -aE '^SKIP |[1-9][0-9]* ignored' "$log" | sort -u || true)
unexpected=$(grep -vxFf tests/skips.txt <<<"$skips" | grep . || true)
if [ -n "$unexpected" ]; then
  echo "skipped, but not on tests/skips.txt:" >&2
  echo "$unexpected" >&2
  exit 1
fi
echo "all suites passed in $SECONDS s"
