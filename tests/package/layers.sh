#!/bin/sh
# layers.sh SOURCE: who may include whom. include <- src <- kernels, include <- pipeline.
set -eu
cd "$1"
failed=0

# forbid WHAT FOLDERS PATTERN: no quoted or angled include in FOLDERS matches PATTERN.
forbid() {
    # shellcheck disable=SC2086
    if grep -rnE --include='*.[ch]' --include='*.cc' --include='*.cu' --include='*.cuh' \
        "^ *# *include +[\"<]($3)" $2; then
        echo "layers: $1" >&2
        failed=1
    fi
}

# Headers of folders by name, as a pattern: a\.h|b\.h. error.h is a name that both sides use for
# their own; each side's include path holds its own alone.
headers() {
    find "$@" -name '*.h' ! -name error.h -exec basename {} \; | sort -u | sed 's/\./\\./' |
        paste -s -d '|'
}

inside=$(headers src kernels)
runtime=$(headers pipeline)

forbid "src and kernels never see the runtime" "src kernels" \
    "([a-z_./]*/)?($runtime)[\">]|[./]*pipeline/"
forbid "the runtime sees the library through draftattn.h alone" "pipeline samples" \
    "([a-z_./]*/)?($inside)[\">]|[./]*(src|kernels)/"
forbid "src meets kernels through backend.h alone" "src" "[./]*kernels/|[./]*cpu/|cuda"
if grep -n '^ *# *include' include/draftattn.h | grep -vE '<(stddef|stdint)\.h>'; then
    echo "layers: the public header includes stddef.h and stdint.h alone" >&2
    failed=1
fi
exit $failed
