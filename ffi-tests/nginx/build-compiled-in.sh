#!/bin/sh
# Builds an nginx with the Lua module compiled in, as OpenResty is built: modules that it loads come
# after Lua. The sources are Debian's packages of the nginx that is installed and of its Lua module.
#
#   ffi-tests/nginx/build-compiled-in.sh FOLDER                   a shared libluajit
#   ffi-tests/nginx/build-compiled-in.sh FOLDER static LIBRARY    a static libluajit, and the module
#                                                                 of nginx/ with libebbtide.a inside
#   ffi-tests/nginx/build-compiled-in.sh FOLDER static            a static libluajit alone
#   ffi-tests/nginx/build-compiled-in.sh FOLDER luajit            no nginx: the source of OpenResty's
#                                                                 LuaJIT, in FOLDER/source/luajit2
#
# The path of the program is printed. It has the configure arguments of Debian's nginx, so the modules
# built for that one load into this one too. A stand-in for the stream Lua module, which Debian does
# not package, is compiled in as well: see stream_standin/. So is the privileged agent process.
#
# nginx and its Lua module are compiled once in a FOLDER: every program is linked from these objects.
# A second call builds nothing unless an input has changed, and calls at the same time wait for each
# other. Nothing outside of FOLDER is changed: apt-get works on package lists of its own in there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
module=$(cd "$here/../../nginx" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
mode=${2:-shared}
library=${3:-}
[ -z "$library" ] || library=$(realpath "$library")
log=$folder/log

fail() {
    [ ! -f "$log" ] || tail -n 40 "$log" >&2
    echo "build-compiled-in.sh: $1; the log is $log" >&2
    exit 1
}

# Package lists in a folder of its own, with source packages where the machine's own lists have
# none. A repository without sources fails to update, and does no harm.
apt_lists() {
    mkdir -p "$folder/apt/sources" "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$file" ] || sed -n '/^deb[[:space:]]/{p;s/^deb/deb-src/p;}' "$file" \
            >"$folder/apt/sources/$(basename "$file" .list).list"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$file" ] || sed 's/^Types:.*/Types: deb deb-src/' "$file" \
            >"$folder/apt/sources/$(basename "$file")"
    done
    apt_run apt-get update >>"$log" 2>&1 || true
}

apt_run() {
    program=$1
    shift
    "$program" -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$folder/apt/sources" \
        -o Dir::State::lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" \
        -o APT::Sandbox::User=root "$@"
}

# source_package NAME BINARY: unpacks into FOLDER/source/NAME. The version that BINARY is installed
# in comes first, then the newest: a mirror may have lost files of one.
source_package() {
    installed=$(dpkg-query -W -f '${source:Version}' "$2" 2>/dev/null || true)
    others=$(apt_run apt-cache showsrc "$1" | sed -n 's/^Version: //p' | sort -Vru)
    rm -rf "$folder/unpack" && mkdir -p "$folder/unpack" "$folder/source"
    for version in $installed $others; do
        (cd "$folder/unpack" && apt_run apt-get source "$1=$version") >>"$log" 2>&1 || continue
        rm -rf "$folder/source/$1"
        mv "$folder/unpack/"*/ "$folder/source/$1"
        return
    done
    fail "apt-get source $1: no version of it is to be had"
}

# development_files PACKAGE...: headers and archives into FOLDER/root, without installing anything.
development_files() {
    rm -rf "$folder/unpack" && mkdir -p "$folder/unpack" "$folder/root"
    (cd "$folder/unpack" && apt_run apt-get download "$@") >>"$log" 2>&1 ||
        fail "apt-get download $*"
    for package in "$folder/unpack/"*.deb; do
        dpkg-deb -x "$package" "$folder/root"
    done
}

# shared_library NAME VERSIONED: a link to the one that is installed, where the linker looks.
shared_library() {
    file=$("${CC:-cc}" -print-file-name="$2")
    [ -f "$file" ] || fail "$2 is not installed: sh ffi-tests/setup.sh"
    ln -sf "$(realpath "$file")" "$folder/lib/$1"
}

libraries() {
    development_files libluajit2-5.1-dev libpcre3-dev
    rm -rf "$folder/lib" && mkdir -p "$folder/lib/shared" "$folder/lib/static"
    shared_library shared/libpcre.so libpcre.so.3
    shared_library static/libpcre.so libpcre.so.3
    shared_library shared/libluajit-5.1.so libluajit-5.1.so.2
    cp "$folder/root/usr/lib/"*/libluajit-5.1.a "$folder/lib/static"
}

# The arguments of the installed nginx without the modules that are files of their own.
debian_arguments() {
    nginx -V 2>&1 | sed -n 's/^configure arguments: //p' |
        sed 's/--add-\(dynamic-\)\?module=[^ ]*//g; s/--with-[a-z_]*=dynamic//g'
}

# configure_nginx FOLDER LIBRARY: with the libraries in FOLDER, in the current folder. LIBRARY is
# libebbtide.a for the module of nginx/, or empty for an nginx without the module.
configure_nginx() {
    LUAJIT_INC=$folder/root/usr/include/luajit-2.1
    LUAJIT_LIB=$1
    CFLAGS="-I$folder/root/usr/include"
    EBBTIDE_LIB=$2
    export LUAJIT_INC LUAJIT_LIB CFLAGS EBBTIDE_LIB
    eval "set -- $(debian_arguments)"
    set -- "$@" --with-compat --with-threads --with-stream --sbin-path="$folder/sbin/nginx" \
        --add-module="$folder/source/libnginx-mod-http-ndk" \
        --add-module="$folder/source/libnginx-mod-http-lua" \
        --add-module="$here/stream_standin"
    [ -z "$EBBTIDE_LIB" ] || set -- "$@" --add-module="$module"
    ./configure "$@" >>"$log" 2>&1 || fail "nginx was not configured"
    # Where Debian keeps Lua's modules, as its own packages say it.
    echo '#define LUA_DEFAULT_PATH "/usr/share/lua/5.1/?.lua;"' >>objs/ngx_auto_config.h
}

# make_nginx FOLDER: with the libraries in FOLDER, in the current folder. The program is linked in any
# case, for make knows of the objects alone. For ngx.re, libpcre is beside nginx's own libpcre2, as in
# Debian's Lua module.
make_nginx() {
    rm -f objs/nginx
    make -f objs/Makefile -j "$(nproc)" LINK="\$(CC) -L$1 -Wl,--no-as-needed -lpcre" \
        >>"$log" 2>&1 || fail "nginx was not built"
}

build_luajit() {
    : >"$log"
    apt_lists
    source_package luajit2 libluajit2-5.1-2
    rm -rf "$folder/apt" "$folder/unpack"
}

build_objects() {
    rm -rf "$folder/build"
    : >"$log"
    apt_lists
    source_package nginx nginx
    source_package libnginx-mod-http-ndk libnginx-mod-http-ndk
    source_package libnginx-mod-http-lua libnginx-mod-http-lua
    libraries
    rm -rf "$folder/apt" "$folder/unpack"
    mv "$folder/source/nginx" "$folder/build"
    cd "$folder/build"
    patch -p1 <"$here/privileged_agent.patch" >>"$log" 2>&1 || fail "privileged_agent.patch fails"
    configure_nginx "$folder/lib/shared" ""
    make_nginx "$folder/lib/shared"
}

# In a copy of the objects. configure writes its headers anew. A header that has changed in nothing but
# configure's arguments keeps its time, so that make compiles the module and what names modules.
build_with_module() {
    rm -rf "$folder/with-module" "$folder/before" && mkdir "$folder/before"
    : >"$log"
    cp -a "$folder/build" "$folder/with-module"
    cd "$folder/with-module"
    set -- objs/ngx_auto_config.h objs/ngx_auto_headers.h \
        "$folder/source/libnginx-mod-http-lua/src/ngx_http_lua_autoconf.h"
    cp -p "$@" "$folder/before"
    configure_nginx "$folder/lib/static" "$library"
    for file in "$@"; do
        before=$folder/before/$(basename "$file")
        if [ "$(without_arguments "$before")" = "$(without_arguments "$file")" ]; then
            touch -r "$before" "$file"
        fi
    done
    # The arguments are part of this object.
    rm -f objs/src/core/nginx.o
    make_nginx "$folder/lib/static"
}

without_arguments() {
    sed '/^#define NGX_CONFIGURE /d' "$1"
}

# Builds the program that MODE names.
build_program() {
    if [ -n "$library" ]; then
        build_with_module
    else
        cd "$folder/build"
        make_nginx "$folder/lib/$mode"
    fi
    # A new file, for the one that is there may be running.
    mkdir -p "$(dirname "$result")"
    cp objs/nginx "$result.new"
    mv "$result.new" "$result"
}

# once STAMP FUNCTION INPUTS FILE: calls FUNCTION unless FILE is there and was made from INPUTS.
once() {
    sum=$(echo "$3" | cksum)
    if [ ! -e "$4" ] || [ "$(cat "$folder/$1" 2>/dev/null)" != "$sum" ]; then
        rm -f "$folder/$1"
        ("$2") 9>&-
        echo "$sum" >"$folder/$1"
    fi
}

# What the objects are built from, as far as it can change.
inputs() {
    nginx -V 2>&1
    dpkg-query -W -f '${Package} ${Version}\n' libnginx-mod-http-lua libnginx-mod-http-ndk
    cat "$0" "$here/privileged_agent.patch" "$here/stream_standin/"*
}

# What the module of nginx/ is built from.
module_inputs() {
    cat "$library" "$module/config" "$module/src/"*.[ch]
}

case $mode in
shared | luajit) ;;
static) [ -z "$library" ] || [ -f "$library" ] || fail "static LIBRARY: libebbtide.a, which make builds" ;;
*) fail "$mode is neither shared nor static nor luajit" ;;
esac
nginx -v >/dev/null 2>&1 || fail "nginx is not installed, or not in PATH"

exec 9>"$folder/lock"
flock 9
inputs=$(inputs | cksum)
if [ "$mode" = luajit ]; then
    result=$folder/source/luajit2
    once luajit.stamp build_luajit "$inputs" "$result"
else
    name=$mode${library:+-with-module}
    result=$folder/$name/nginx
    once objects.stamp build_objects "$inputs" "$folder/build/objs/src/core/nginx.o"
    [ -z "$library" ] || inputs="$inputs $(module_inputs | cksum)"
    once "$name.stamp" build_program "$inputs" "$result"
fi
echo "$result"
