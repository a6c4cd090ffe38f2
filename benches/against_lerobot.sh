#!/usr/bin/env bash
# The published pi0 on this machine: LeRobot on PyTorch, then pi0_tt on the same cores, with the ratio of every stage.
#
#   benches/against_lerobot.sh PYTHON FULL_BENCH.PY [pi0_tt bench options, such as --dtype bf16 or --cameras 2]
#
# PYTHON has `pip install "lerobot[pi]==0.6.1"`; FULL_BENCH.PY is the script beside the golden sets. Needs 15 GB of memory; run it on a
# quiet machine. `--cameras N` goes to both.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 script=$2
shift 2
cameras=3
for ((i = 1; i <= $#; i++)); do
  if [[ ${!i} == --cameras ]]; then
    next=$((i + 1))
    cameras=${!next}
  fi
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo build --release --bin pi0_tt
"$python" "$script" --runs 2 --cams "$cameras" --out "$out"
target/release/pi0_tt bench --runs 3 --against "$out/bench.json" "$@"
