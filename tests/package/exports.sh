#!/bin/sh
# exports.sh LIBRARY HEADER: the library exports what the header declares, no more, no less.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Every defined dynamic symbol counts: versions, weak C++ leftovers and the like show up here too.
nm -D --defined-only "$1" | awk '{ print $NF }' | grep -v -e '^_init$' -e '^_fini$' | sort -u \
    >"$folder/exported"
sed 's|//.*||; s|^ \*.*||; s|/\*.*\*/||' "$2" | tr '\n' ' ' |
    grep -oE 'DRAFTATTN_API [^;(]*\(' | grep -oE 'draftattn_[a-z0-9_]+\($' | tr -d '(' | sort -u \
    >"$folder/declared"
if [ "$(wc -l <"$folder/declared")" -le 20 ]; then
    echo "exports: the header was not understood" >&2
    exit 1
fi
if ! diff "$folder/declared" "$folder/exported"; then
    echo "exports: '<' is declared in the header and not exported, '>' the other way round" >&2
    exit 1
fi
echo "$(wc -l <"$folder/exported") functions exported"
