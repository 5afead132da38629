#!/usr/bin/env bash
# Graphviz and Chromium, which the tests of pictures use, from Debian's packages where that is possible. Without them
# those tests are skipped, each with the reason.
set -euo pipefail
wanted=()
command -v dot >/dev/null || wanted+=(graphviz)
command -v chromium >/dev/null || command -v google-chrome >/dev/null || wanted+=(chromium)
((${#wanted[@]})) || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}"; } >/dev/null 2>&1 && exit 0
fi
echo "${wanted[*]} not found and not installed: the tests of pictures that need them will be skipped" >&2
