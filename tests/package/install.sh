#!/bin/sh
# install.sh CMAKE SOURCE BUILD CC LIBDIR: installs into an empty prefix, then is a stranger who
# uses it: through pkg-config, through find_package, as a program, and after the tree has been
# moved.
set -eu
cmake=$1
source=$2
build=$3
cc=$4
libdir=$5
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
prefix="$folder/moved here"

fail() {
    echo "install: $*" >&2
    exit 1
}

"$cmake" --install "$build" --prefix "$folder/first" >/dev/null
mv "$folder/first" "$prefix"
export LD_LIBRARY_PATH="$prefix/$libdir"

for file in include/draftattn.h "$libdir/pkgconfig/draftattn.pc" \
    "$libdir/cmake/draftattn/draftattnConfig.cmake"; do
    [ -f "$prefix/$file" ] || fail "$file is missing"
done

echo "pkg-config"
export PKG_CONFIG_PATH="$prefix/$libdir/pkgconfig"
version=$(sed -n 's/^#define DRAFTATTN_VERSION_\(MAJOR\|MINOR\|PATCH\) //p' \
    "$source/include/draftattn.h" | paste -s -d .)
[ "$(pkg-config --modversion draftattn)" = "$version" ] || fail "pkg-config does not say $version"
eval "\"$cc\" '$source/samples/embed/embed.c' $(pkg-config --cflags --libs draftattn) -lm \
    -o '$folder/embed'"
"$folder/embed" | grep -q '^density 0\.' || fail "the sample built with pkg-config does not run"

echo "find_package"
"$cmake" -S "$source/samples/embed" -B "$folder/build" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" >/dev/null
"$cmake" --build "$folder/build" >/dev/null
"$folder/build/embed" | grep -q '^density 0\.' ||
    fail "the sample built with find_package does not run"

if [ -x "$prefix/bin/draftattn" ]; then
    echo "program"
    unset LD_LIBRARY_PATH
    cd "$folder"
    "$prefix/bin/draftattn" --version | grep -q "$version" ||
        fail "draftattn --version: not $version"
    "$prefix/bin/draftattn" info | grep -q "$prefix/bin/../share/draftattn/tiny-world" ||
        fail "the installed program does not find the installed model"
    grep -q 'draftattn .* generate\|GENERATE' "$prefix/share/man/man1/draftattn.1" ||
        fail "the man page does not describe generate"
fi
echo "ok"
