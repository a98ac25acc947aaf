#!/bin/sh
# format.sh SOURCE CLANG-FORMAT: C and CUDA sources are as .clang-format has them; they, CMake and
# shell files have no tabs and at most 100 columns.
set -eu
cd "$1"
formatter=$2
folders="include src kernels pipeline samples tests"
failed=0

# Bytes that continue a UTF-8 character take no column.
# shellcheck disable=SC2086,SC2016
find $folders cmake CMakeLists.txt \
    \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.sh' \
    -o -name '*.cmake' -o -name CMakeLists.txt \) \
    -type f -exec env LC_ALL=C awk '
        function report(what) { print FILENAME ":" FNR ": " what; bad = 1 }
        /\t/ { report("a tab") }
        { gsub(/[\200-\277]/, "") }
        length($0) > 100 { report(length($0) " columns") }
        END { exit bad }' {} + >&2 || failed=1

if [ -x "$formatter" ]; then
    # shellcheck disable=SC2086,SC2016
    find $folders \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) -type f \
        -exec "$formatter" --dry-run -Werror {} + || failed=1
elif [ $failed -eq 0 ]; then
    echo "columns and tabs are right; clang-format-14 is not here"
    exit 77
fi
exit $failed
