#!/usr/bin/env bash
# From a fresh clone to a video: system packages, a Release build, one run of the bundled model.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: bash samples/quickstart.sh [--no-install] [PROMPT]

Installs the system packages that are missing (apt), builds in build/release, and makes
quickstart.mp4 with the bundled model. Run it again with another PROMPT; nothing is installed or
built twice.

  --no-install  leave the system's packages alone
  --help        show this text
EOF
}

install=1
prompt=""
for argument in "$@"; do
    case "$argument" in
    --no-install) install=0 ;;
    --help) usage; exit 0 ;;
    -*) echo "quickstart.sh: unknown flag '$argument'; see --help" >&2; exit 2 ;;
    *) prompt=$argument ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=packages.sh
. "$root/samples/packages.sh"
[ "$install" -eq 0 ] || install_packages "${build_packages[@]}"

cd "$root"
mkdir -p build
log=build/quickstart.log
echo "Building (a minute or three; log in $log)"
if ! { cmake --preset release -DDRAFTATTN_BUILD_TESTS=OFF &&
       cmake --build --preset release --parallel "$(nproc)"; } >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "quickstart.sh: the build failed; all of its output is in $root/$log" >&2
    exit 1
fi

model=samples/tiny-world/checkpoint
if [ -z "$prompt" ]; then
    prompt=$(sed -n 's/.*"prompt": *"\(.*\)".*/\1/p' "$model/generation_defaults.json")
fi
echo "Prompt: $prompt"
build/release/bin/draftattn generate --model "$model" --prompt "$prompt" --seed 1 \
    --output quickstart.mp4
echo "The video: $root/quickstart.mp4"
