#!/usr/bin/env bash
# Tests of the card's side on TTNN itself and a mock Wormhole n150: no card is needed, but TTNN's C++ headers and libraries are
# (docs/ttnn.md, Building for the card). Takes the TTNN of the environment, or one after the other those of the files in TTNN_ENVS,
# which are shell files that set TT_METAL_INSTALL_DIR, or TT_METAL_HOME, TTNN_LIB_DIR and TTNN_INCLUDE_PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

# The root of a wheel with an empty file where TTNN 0.67 looks for its compiler, which a mock card never runs.
mock_root() {
    local wheel=$1 root=$PWD/build/ttnn-mock-root
    rm -rf "$root"
    mkdir -p "$root/runtime/sfpi/compiler/bin"
    ln -s "$wheel"/* "$root" 2>/dev/null || true # all but runtime, which is there
    ln -s "$wheel"/runtime/* "$root/runtime"
    touch "$root/runtime/sfpi/compiler/bin/riscv-tt-elf-g++"
    echo "$root"
}

test_one() {
    if [[ -n ${TTNN_LIB_DIR:-} && -z ${TT_METAL_RUNTIME_ROOT:-} ]]; then
        TT_METAL_RUNTIME_ROOT=$(mock_root "$(realpath "$TTNN_LIB_DIR/../..")")
        export TT_METAL_RUNTIME_ROOT
    fi
    export TT_METAL_MOCK_CLUSTER_DESC_PATH=$PWD/tests/data/wormhole_n150.yaml
    export TT_METAL_CACHE=$PWD/build/ttnn-mock-cache TT_METAL_LOGS_PATH=$PWD/build TT_LOGGER_LEVEL=${TT_LOGGER_LEVEL:-FATAL}
    cargo clippy --release --locked --features ttnn --all-targets -- -D warnings
    cargo test --release --locked --features ttnn --lib -- backend::ttnn::card backend::ttnn::device
    cargo test --release --locked --features ttnn --test ttnn_device
}

if [[ -n ${TTNN_ENVS:-} ]]; then
    for file in $TTNN_ENVS; do
        echo "== TTNN of $file"
        (
            # shellcheck disable=SC1090
            . "$file"
            test_one
        )
    done
elif [[ -n ${TT_METAL_INSTALL_DIR:-}${TT_METAL_HOME:-} || -e /usr/include/ttnn/device.hpp || -e /usr/local/include/ttnn/device.hpp ]]; then
    test_one
else
    echo "SKIPPED: the C++ shim and the tests on the mock card (tests/ttnn_device.rs). No C++ headers of TTNN were found: set"
    echo "TT_METAL_INSTALL_DIR or TT_METAL_HOME, see docs/ttnn.md, Building for the card"
fi
