#!/bin/sh
# Makes the man page out of the program's own help: man-page.sh PROGRAM VERSION OUTPUT
#
# Help is regular: "Usage:" lines, headings that end in a colon at the left edge, commands and
# options that begin with two spaces (six where there is no letter), their words two or more spaces
# behind, continuation lines deeper; the rest is text.
set -eu
program=$1
version=$2
output=$3

page() { # stdin: one help text
    awk '
    function escape(s) {
        gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); gsub(/"/, "\\(dq", s)
        return s ~ /^[.\047]/ ? "\\&" s : s
    }
    /^$/ { if (!quiet) print ".PP"; next }
    /^[Uu]sage:/ { sub(/^[Uu]sage: */, ""); print ".B " escape($0); quiet = 0; next }
    /^[A-Z][^.]*:$/ { sub(/:$/, ""); print ".SS " escape($0); quiet = 1; next }
    /^(  |      )-/ || /^  [a-z]/ {
        line = $0; sub(/^ +/, "", line); at = match(line, /   *[^ ]/)
        print ".TP"
        if (at) {
            head = substr(line, 1, at - 1); rest = substr(line, at); sub(/^ +/, "", rest)
            print ".B " escape(head); print escape(rest)
        } else print ".B " escape(line)
        quiet = 0; next
    }
    { sub(/^ +/, ""); print escape($0); quiet = 0 }'
}

{
    printf '.TH DRAFTATTN 1 "" "draftattn %s" "User commands"\n' "$version"
    printf '.SH NAME\ndraftattn \\- video from text, with draft-guided sparse attention\n'
    printf '.SH SYNOPSIS\n.B draftattn\n.I COMMAND\n[\\fIOPTION\\fR]...\n'
    printf '.SH DESCRIPTION\n'
    "$program" --help | page
    for command in $("$program" --help | awk '
        /^Commands:/ { on = 1; next } on && /^  [a-z]/ { print $1 } on && /^[^ ]/ { on = 0 }'); do
        [ "$command" = help ] && continue
        printf '.SH DRAFTATTN %s\n' "$(printf %s "$command" | tr '[:lower:]' '[:upper:]')"
        "$program" "$command" --help | page
    done
    cat <<'EOF'
.SH EXIT STATUS
0 done, 1 failed, 2 a flag or value that cannot be, 130 interrupted.
.SH ENVIRONMENT
.TP
.B DRAFTATTN_MODEL
the model where no \-m is given
.TP
.B DRAFTATTN_BACKEND, DRAFTATTN_KERNEL
force the attention's backend or kernel, as draftattn info names them
.TP
.B GOMP_SPINCOUNT, OMP_WAIT_POLICY
how idle threads wait; where neither is set the program sets GOMP_SPINCOUNT to 1000
EOF
} >"$output.part"
mv "$output.part" "$output"
