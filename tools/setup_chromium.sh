#!/usr/bin/env bash
# The browser that opens the page of a replay in `make test` (tests/peers/test_report_page.py). Only the tests need it: without root it is
# named, and those tests are skipped. It brings no font of its own, and without one the page has no text to measure.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do command -v "$name" >/dev/null && exit 0; done
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  printf '\033[1m-- Installing system packages: chromium, fonts-dejavu-core\033[0m\n' >&2
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium fonts-dejavu-core >&2
else
  printf '\033[1mNo browser was found for the page of a replay. Install it with:\n  sudo apt-get install chromium\033[0m\n' >&2
fi
