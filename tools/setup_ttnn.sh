#!/usr/bin/env bash
# TTNN from PyPI wheels, for the replay of recorded graphs on its mock card: build/ttnn-<version>, one Python environment per version.
# Does nothing where they are already. Without a Python that the wheels are made for it says so, makes nothing and succeeds.
set -euo pipefail
cd "$(dirname "$0")/.."
versions=(0.66.0 0.67.0 0.81.1)

say() { printf '\033[1m-- %s\033[0m\n' "$*" >&2; }

stamp=$(cat tools/setup_ttnn.sh tools/ttnn_compiler.sh tools/ttnn_wheels.txt | sha256sum)
wanted=()
for version in "${versions[@]}"; do
  venv=build/ttnn-$version
  [[ $(cat "$venv/stamp" 2>/dev/null) == "$PWD $stamp" ]] && "$venv/bin/python" -c '' 2>/dev/null || wanted+=("$version")
done
((${#wanted[@]})) || exit 0

# The wheels exist for 3.10 and 3.12. pyenv keeps versions that are not on PATH.
pick_python() {
  local candidate
  for candidate in python3.12 python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1{2,0}.*/bin/python3; do
    "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in [(3, 10), (3, 12)])' 2>/dev/null &&
      echo "$candidate" && return
  done
  return 1
}
if ! python=$(pick_python); then
  say "No TTNN: its wheels are for Python 3.10 and 3.12, and neither was found with its venv module"
  exit 0
fi

mkdir -p build
for version in "${wanted[@]}"; do
  venv=build/ttnn-$version
  say "TTNN $version for $("$python" --version) in $venv"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-deps \
    "ttnn==$version" --requirement=tools/ttnn_wheels.txt >&2
  # From 0.67 on the mock card wants to see a compiler too.
  compiler=$(echo "$venv"/lib/python3.*/site-packages/ttnn)/runtime/sfpi/compiler/bin/riscv-tt-elf-g++
  install -D tools/ttnn_compiler.sh "$compiler"
  echo "$PWD $stamp" >"$venv/stamp"
done
