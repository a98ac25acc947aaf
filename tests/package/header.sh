#!/bin/sh
# header.sh INCLUDE CC CXX: the public header compiles alone, as strict C99, C11 and C++11, and
# twice over.
set -eu
include=$1
cc=$2
cxx=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{
    printf '#include <draftattn.h>\n#include <draftattn.h>\n'
    printf 'int main(void) { return draftattn_version() < 0; }\n'
} >"$folder/header.c"
cp "$folder/header.c" "$folder/header.cc"
for standard in c99 c11; do
    echo "$cc -std=$standard"
    "$cc" -std=$standard -Wall -Wextra -Wpedantic -Werror -I "$include" -c "$folder/header.c" \
        -o "$folder/header.o"
done
for standard in c++11 c++17; do
    echo "$cxx -std=$standard"
    "$cxx" -std=$standard -Wall -Wextra -Wpedantic -Werror -I "$include" -c "$folder/header.cc" \
        -o "$folder/header.o"
done
