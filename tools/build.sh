#!/usr/bin/env bash
# Builds the ROS 2 package into build/install by its CMakeLists.txt, then the independent r2r client of the tests and the demo.
# `make build` calls this after tools/setup_ros.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
. build/env.sh

say() { printf '\033[1m-- %s\033[0m\n' "$*" >&2; }

# The environment is read when CMake configures; everything else CMake notices itself.
if [[ build/env.sh -nt build/cmake/configured ]]; then
  say "Configuring the package"
  cmake -S . -B build/cmake -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$root/build/install" -DBUILD_TESTING=OFF \
    -DCARGO_TARGET_DIR="$root/target" >&2
  touch build/cmake/configured
fi
say "Building messages, policy_node and pi0_tt"
cmake --build build/cmake -j "$(nproc)" >&2
cmake --install build/cmake >/dev/null

say "Building the r2r client"
# Its own cargo run: r2r reads the installed messages of every package below at build time, through libclang and by
# loading their libraries. It does not know kilted by name; what it takes from the name alone is as in jazzy.
packages=(
  action_msgs builtin_interfaces diagnostic_msgs geometry_msgs pi0_tt rcl_interfaces rosgraph_msgs sensor_msgs service_msgs std_msgs
  std_srvs trajectory_msgs type_description_interfaces unique_identifier_msgs
)
distribution=$ROS_DISTRO libraries=$LD_LIBRARY_PATH
if [[ $distribution == kilted ]]; then distribution=jazzy; fi
if [[ -n ${PI0_TT_ROS_SHIM:-} ]]; then
  AMENT_PREFIX_PATH=$PI0_TT_ROS_SHIM:$AMENT_PREFIX_PATH
  libraries+=:$CMAKE_PREFIX_PATH/lib
  export PI0_TT_R2R_RPATH=$root/build/install/lib:${PI0_TT_ROS_RPATH//;/:}
fi
# Its code for the messages is made once: other messages need other code.
messages=$(cat msg/*.msg | sha256sum)
if [[ -d target/release && $(cat target/r2r_messages 2>/dev/null) != "$messages" ]]; then
  cargo clean --quiet --release --manifest-path tests/peers/r2r/Cargo.toml --target-dir target --package r2r --package r2r_actions --package r2r_msg_gen
  echo "$messages" >target/r2r_messages
fi
ROS_DISTRO=$distribution IDL_PACKAGE_FILTER=$(IFS=';' && echo "${packages[*]}") LD_LIBRARY_PATH=$libraries \
  cargo build --release --locked --manifest-path tests/peers/r2r/Cargo.toml --target-dir target >&2
say "Built: build/install/lib/pi0_tt/policy_node, build/install/lib/pi0_tt/pi0_tt"
