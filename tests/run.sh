#!/usr/bin/env bash
# Everything that can be tested on this machine: system packages, a Release build, all tests.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: bash tests/run.sh [--no-install] [--sanitize | --tsan] [-- CTEST-ARGUMENT...]
       bash tests/run.sh [--no-install] --fuzz SECONDS [TARGET...]

Installs the system packages that are missing (apt), builds in build/release and runs the
tests with CTest.

  --no-install  leave the system's packages alone
  --sanitize    build in build/asan-ubsan with the address and undefined-behaviour sanitizers
  --tsan        build in build/tsan with clang's thread sanitizer; run the tests of the library,
                of the kernels and of small generations
  --fuzz        build in build/fuzz with clang and run the fuzz targets of tests/fuzz, all of them
                at the same time, for so many seconds
  --help        show this text

What follows -- goes to CTest, such as: bash tests/run.sh -- -L golden
EOF
}

install=1
preset=release
seconds=0
while [ $# -gt 0 ]; do
    case "$1" in
    --no-install) install=0 ;;
    --sanitize) preset=asan-ubsan ;;
    --tsan) preset=tsan ;;
    --fuzz)
        preset=fuzz
        seconds=${2:-}
        case "$seconds" in
        '' | *[!0-9]*) echo "run.sh: --fuzz '$seconds': takes a number of seconds" >&2; exit 2 ;;
        esac
        shift 2
        break
        ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "run.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
    esac
    shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../samples/packages.sh
. "$root/samples/packages.sh"
packages=("${build_packages[@]}" "${test_packages[@]}")
case "$preset" in tsan | fuzz) packages+=("${clang_packages[@]}") ;; esac
[ "$install" -eq 0 ] || install_packages "${packages[@]}"
[ "$install" -eq 0 ] || [ "$preset" = fuzz ] || install_browser

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
if [ "$preset" = fuzz ]; then
    exec bash tests/fuzz/run.sh build/fuzz/tests/fuzz "$seconds" "$@"
fi
if [ "$preset" = tsan ]; then
    # Archer tells the sanitizer what OpenMP orders; libraries that were not built with it are left
    # alone. Newer kernels place memory where the sanitizer cannot: hence setarch.
    OMP_TOOL_LIBRARIES=$(clang -print-resource-dir)/../../libarcher.so
    export OMP_TOOL_LIBRARIES TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1
    [ -e "$OMP_TOOL_LIBRARIES" ] ||
        { echo "run.sh: no libarcher.so beside clang (package libomp-dev)" >&2; exit 1; }
    [ $# -gt 0 ] || set -- -R '^(unit|kernel|fuzz|faults\.malloc|golden\.wan|cli\.generate)'
    exec setarch "$(uname -m)" -R \
        ctest --test-dir build/tsan --output-on-failure --timeout 900 --parallel 2 "$@"
fi
exec ctest --test-dir "build/$preset" --output-on-failure --parallel 2 "$@"
