#!/bin/sh
# Writes ngx_http_ebbtide_page.h from page.html, for a compiler takes no HTML.
set -eu
cd "$(dirname "$0")"
{
    printf '\n/* Written by page.sh from page.html. */\n\n\n'
    printf 'static const char  ngx_http_ebbtide_page[] =\n'
    sed 's/\\/\\\\/g; s/"/\\"/g; s/^/    "/; s/$/\\n"/' page.html
    printf '    ;\n'
} >"${1:-ngx_http_ebbtide_page.h}"
