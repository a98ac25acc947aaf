#!/bin/sh
# exports.sh LIBRARY HEADER: the library exports what the header declares, all of it and nothing else.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Versions, weak C++ leftovers and the like would show up here too: every defined dynamic symbol counts.
nm -D --defined-only "$1" | awk '{ print $NF }' | grep -v -e '^_init$' -e '^_fini$' | sort -u \
    >"$folder/exported"
sed 's|//.*||; s|^ \*.*||; s|/\*.*\*/||' "$2" | tr '\n' ' ' |
    grep -oE 'DRAFTATTN_API [^;(]*\(' | grep -oE 'draftattn_[a-z0-9_]+\($' | tr -d '(' | sort -u \
    >"$folder/declared"
[ "$(wc -l <"$folder/declared")" -gt 20 ] || { echo "exports: the header was not understood" >&2; exit 1; }
if ! diff "$folder/declared" "$folder/exported"; then
    echo "exports: '<' is declared in the header and not exported, '>' the other way round" >&2
    exit 1
fi
echo "$(wc -l <"$folder/exported") functions exported"
