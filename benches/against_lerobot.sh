#!/usr/bin/env bash
# The published pi0 on this machine: LeRobot on PyTorch in float32, then pi0_tt on the same cores from float32 and from bfloat16 weights, with
# the ratio of every stage. Once with 3 cameras and 20 prompt tokens, once with 2 cameras and 12.
#
#   benches/against_lerobot.sh PYTHON FULL_BENCH.PY
#
# PYTHON has `pip install "lerobot[pi]==0.6.1"`; FULL_BENCH.PY is the script beside the golden sets. Needs 15 GB of memory and about 15 minutes of
# a quiet machine.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 script=$2
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo build --release --bin pi0_tt
for case in "3 20" "2 12"; do
  read -r cameras tokens <<<"$case"
  "$python" benches/lerobot_tokens.py "$tokens" "$script" --runs 2 --cams "$cameras" --out "$out"
  for dtype in f32 bf16; do
    echo "== $cameras cameras, $tokens prompt tokens, $dtype weights: ratio to LeRobot in float32 in the last column"
    target/release/pi0_tt bench --runs 3 --dtype "$dtype" --cameras "$cameras" --tokens "$tokens" --against "$out/bench.json"
  done
done
