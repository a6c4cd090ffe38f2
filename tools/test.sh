#!/usr/bin/env bash
# The test suite: `make test` calls this after tools/build.sh. With --full also the tests that Rust and Python mark as long.
# Ends with the summary lines of every part and with what was skipped. With CI=true skipping anything is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
. build/env.sh

full=false
[[ ${1:-} == --full ]] && full=true
log=build/test.log
: >"$log"

say() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }
# Runs a step and keeps what it says, for the summary.
logged() { "$@" 2>&1 | tee -a "$log"; }
# With the Rust messages and libraries that the feature `ros` needs.
with_ros() (
  . build/cmake/cargo_env.sh
  "$@"
)

say "Format"
cargo fmt --check
for crate in tests/peers/r2r tests/peers/rosidl_rust/round_trip; do cargo fmt --check --manifest-path $crate/Cargo.toml; done

say "Lints without ROS"
cargo clippy --release --locked --all-targets -- -D warnings
say "Lints with ROS"
with_ros cargo clippy --release --locked --all-targets --features ros -- -D warnings

run=()
$full && run=(--include-ignored)
say "Rust tests"
# --nocapture: a test that is skipped says so.
logged cargo test --release --locked -- --nocapture "${run[@]}"
say "Rust tests of the node"
logged with_ros cargo test --release --locked --features ros --lib --bins -- --nocapture "${run[@]}" node::

say "TTNN, for the replay of recorded graphs"
tools/setup_ttnn.sh
say "Browser, for the page of a replay"
tools/setup_chromium.sh
say "Python peers, over DDS and on TTNN's mock card"
mkdir -p build/tests/ros_log
export ROS_LOG_DIR=$PWD/build/tests/ros_log ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
marks=(-m "not full")
$full && marks=()
peers=0
logged "$PI0_TT_PYTHON" -m pytest tests/peers --color=no -ra "${marks[@]}" || peers=$?
if "$PI0_TT_PYTHON" -c 'import launch_ros' 2>/dev/null; then
  say "Launch file"
  logged "$PI0_TT_PYTHON" -m pytest tests/launch --color=no -ra || peers=$?
else
  say "Launch file: not tested, because the PyPI wheels hold no launch (tests/launch runs with an installed ROS 2)"
fi
say "Demo, as make run shows it"
tools/run_demo.sh
if $full; then
  say "Soak: a minute of three cameras at 30 Hz"
  "$PI0_TT_PYTHON" benches/node_callbacks.py --seconds 60
fi
# Shared memory of nodes that a test had to kill.
[[ -n ${PI0_TT_ROS_SHIM:-} ]] && "$PI0_TT_PYTHON" "$CMAKE_PREFIX_PATH/tools/fastdds/fastdds.py" shm clean >/dev/null

say "Summary"
# Not at the start of a line where cargo tests one at a time: "test name ... Skipped: ".
skipped=$(grep -oE '(\bSkipped: |^SKIPPED ).*' "$log" | sort -u || true)
grep -E '^test result: ' "$log" || true
grep -E '^=+ .*(passed|failed|error).* =+$' "$log" || true
if [[ -n $skipped ]]; then
  printf '%s\n' "$skipped"
  if [[ ${CI:-} == true ]]; then
    echo "Tests were skipped, which CI=true forbids" >&2
    exit 1
  fi
fi
exit $peers
