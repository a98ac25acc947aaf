#!/usr/bin/env bash
# Everything that can be tested on this machine: system packages, a Release build, all tests.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: bash tests/run.sh [--no-install] [--sanitize] [-- CTEST-ARGUMENT...]

Installs the system packages that are missing (apt), builds in build/release and runs the
tests with CTest.

  --no-install  leave the system's packages alone
  --sanitize    build in build/asan-ubsan with the address and undefined-behaviour sanitizers
  --help        show this text

What follows -- goes to CTest, such as: bash tests/run.sh -- -L golden
EOF
}

install=1
preset=release
while [ $# -gt 0 ]; do
    case "$1" in
    --no-install) install=0 ;;
    --sanitize) preset=asan-ubsan ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "run.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
    esac
    shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../samples/packages.sh
. "$root/samples/packages.sh"
[ "$install" -eq 0 ] || install_packages "${build_packages[@]}" "${test_packages[@]}"

cd "$root"
mkdir -p build
log=build/tests-$preset.log
echo "Building (log in $log)"
if ! { cmake --preset "$preset" -DDRAFTATTN_BUILD_TESTS=ON &&
       cmake --build --preset "$preset" --parallel "$(nproc)"; } >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    echo "run.sh: the build failed; all of its output is in $root/$log" >&2
    exit 1
fi

# Tests use all cores and share them: threads that wait must not spin for long.
export GOMP_SPINCOUNT=1000
if [ "$preset" = asan-ubsan ]; then
    export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1
    export LSAN_OPTIONS=suppressions=$root/tests/leaks.supp:print_suppressions=0
    export UBSAN_OPTIONS=print_stacktrace=1
fi
exec ctest --test-dir "build/$preset" --output-on-failure --parallel 2 "$@"
