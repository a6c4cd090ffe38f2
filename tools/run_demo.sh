#!/usr/bin/env bash
# `make run`: plays the recorded camera images and joint states of a simulated ALOHA robot over DDS into the policy node, and shows what
# the node commands. The checkpoint is a small π0 with synthetic weights: everything runs as with real weights, and the motion is none
# that a robot should make.
#
# Everything stays on this machine: an own ROS domain, discovery on the loopback alone. Results lie in build/demo.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m-- %s\033[0m\n' "$*"; }
fail() { printf '\033[1;31m%s\033[0m\n' "$@" >&2; exit 1; }

[[ -f build/env.sh && -x build/install/lib/pi0_tt/policy_node && -x target/release/bag_play ]] ||
  fail "The package is not built. Run 'make run', which builds what is missing, or 'make build' first."
. build/env.sh

demo=build/demo bag=tests/data/bags/aloha_transfer_cube
binaries=build/install/lib/pi0_tt
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID=$((1 + $$ % 100)) ROS_LOG_DIR=$PWD/$demo/ros_log

rm -rf "$demo"
mkdir -p "$demo" "$ROS_LOG_DIR"

say "Synthetic checkpoint: a small π0 with weights that mean nothing"
"$binaries/pi0_tt" synth --geometry small "$demo/checkpoint" ||
  fail "The synthetic checkpoint was not written to $demo/checkpoint."

# --- The node --------------------------------------------------------------------------------------------------------------------------

cat >"$demo/params.yaml" <<EOF
/**:
  ros__parameters:
    checkpoint: $PWD/$demo/checkpoint
    robot: aloha_sim
    # The recorded robot does not follow the commands.
    max_drift: 0.0
    cameras: {base_0_rgb: {transport: compressed}}
EOF

node='' player=''
# However this script ends, both processes have ended before it.
finish() {
  local process
  trap - EXIT INT TERM
  for process in $player $node; do kill -TERM "$process" 2>/dev/null || true; done
  for process in $player $node; do
    for _ in {1..50}; do kill -0 "$process" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$process" 2>/dev/null || true
    wait "$process" 2>/dev/null || true
  done
}
trap finish EXIT
trap 'finish; exit 130' INT TERM

say "Policy node /policy, domain $ROS_DOMAIN_ID, log in $demo/node.log"
"$binaries/policy_node" --ros-args --params-file build/install/share/pi0_tt/config/policy.yaml --params-file "$demo/params.yaml" \
  >"$demo/node.log" 2>&1 &
node=$!

# --- The robot: camera, joint states and instruction of the bag ------------------------------------------------------------------------

say "Playing $bag over DDS"
maps=()
for topic in /camera/base_0_rgb/image/compressed /joint_states /instruction; do maps+=(--map "$topic=/policy$topic"); done
# Half a second for the last chunk; after that the node would rightly report that its inputs are gone.
target/release/bag_play "$bag" --output "$demo/output" --drain 0.5 "${maps[@]}" &
player=$!
wait -n -p ended "$node" "$player" && code=0 || code=$?
if [[ $ended == "$node" ]]; then
  node=''
  tail -n 20 "$demo/node.log" >&2
  fail "The policy node ended by itself (exit code $code). Its log is above and in $demo/node.log."
fi
player=''
if ((code != 0)); then
  tail -n 20 "$demo/node.log" >&2
  fail "The bag could not be played (see above). The last lines of the node's log are above and in $demo/node.log."
fi

kill -INT "$node"
wait "$node" && code=0 || code=$?
node=''
((code == 0)) || fail "The policy node ended with exit code $code on SIGINT. Its log is $demo/node.log."

# --- What came back --------------------------------------------------------------------------------------------------------------------

say "What the node commanded"
"$binaries/pi0_tt" summary "$demo/output" --svg "$demo/joints.svg" ||
  fail "No summary could be made of $demo/output. The node's log is $demo/node.log."
cat <<EOF

The weights are synthetic, so the motion means nothing: for a real checkpoint see README.md.

  recorded bag       $demo/output      (MCAP: opens in Foxglove, rosbags, ros2 bag)
  commanded joints   $demo/joints.svg
  node's log         $demo/node.log
EOF
