# What draftattn needs from the system, in one place, and how to get it. Sourced by
# samples/quickstart.sh and tests/run.sh. Names are those of Debian 12 and Ubuntu 24.04.
# shellcheck shell=bash
# shellcheck disable=SC2034 # the lists are read by those who source this

build_packages=(
    cmake make gcc g++ pkg-config   # tools
    libdnnl-dev                     # oneDNN: matrix products and convolutions
    libavcodec-dev libavformat-dev libavutil-dev libswscale-dev # FFmpeg: videos, images
    libsentencepiece-dev            # the tokenizer of the text encoder
    libutf8proc-dev                 # NFC and letters of prompts
    libcjson-dev libstb-dev         # JSON, letters in pictures
)
test_packages=(
    libcmocka-dev                   # unit tests
    ffmpeg                          # ffprobe looks at what was written
    python3                         # tests of the command line
)
clang_packages=(
    clang libclang-rt-dev libomp-dev llvm # tests/run.sh --tsan and --fuzz
)

# Prints those of the given packages that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
            printf '%s\n' "$package"
    done
}

# install_packages PACKAGE...: installs what is missing; touches nothing where all is there.
install_packages() {
    local missing=() as_root=()
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        echo "This system has no apt. Needed, under the names of Debian: $*" >&2
        return 0 # they may be there under other names; CMake says what it misses
    fi
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "Neither root nor sudo. As root, run: apt-get install ${missing[*]}" >&2
            return 1
        fi
        as_root=(sudo)
    fi
    echo "Installing: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 \
            "${missing[@]}" >/dev/null
}

# install_browser: one for tests/browser, which is skipped without. Nothing where a browser is there
# already, or where apt has none but a stub for a snap, as on Ubuntu. Wants fresh lists of packages,
# which install_packages leaves where it had something to do.
install_browser() {
    local browser
    for browser in chromium google-chrome google-chrome-stable; do
        ! command -v "$browser" >/dev/null || return 0
    done
    # not grep -q: it would leave before apt-cache is done, which then counts as failed
    if LC_ALL=C apt-cache policy chromium 2>/dev/null |
        grep -E '^ *Candidate: [0-9]' | grep -v snap >/dev/null; then
        install_packages chromium || echo "No browser; its test will be skipped." >&2
    fi
}
