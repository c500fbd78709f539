#!/bin/sh
# Builds ngx_http_ebbtide_module.so for the nginx that is installed.
#
#   nginx/build.sh LIBRARY FOLDER     libebbtide.a, and where everything goes
#
# NGINX_SRC=folder names nginx's source; without it that of Debian's nginx-dev is taken, with the
# flags that the installed nginx was configured with. Builds in one folder wait for each other.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
library=$(realpath "$1")
mkdir -p "$2"
folder=$(cd "$2" && pwd)
source=${NGINX_SRC:-/usr/share/nginx/src}

if [ ! -f "$source/configure" ] && [ ! -f "$source/auto/configure" ]; then
    echo "nginx's source is not in $source: install nginx-dev, or set NGINX_SRC"
    exit 1
fi
exec 9>"$folder/lock"
if ! flock -n 9; then
    echo "another build in $folder is under way: waiting until that one ends"
    flock 9
fi
if ! nginx -v >"$folder/version" 2>&1; then
    echo "nginx is not installed, or not in PATH"
    exit 1
fi

rm -rf "$folder/source"
cp -r "$source" "$folder/source"
cd "$folder/source"
configure=./configure
[ -f configure ] || configure=auto/configure

# As the nginx that is installed was configured, for only then are modules compatible; the modules
# that it was built with are not built again.
nginx -V 2>&1 | sed -n 's/^configure arguments: //p' |
    sed 's/--add-\(dynamic-\)\?module=[^ ]*//g; s/--with-[a-z_]*=dynamic//g' >"$folder/arguments"
EBBTIDE_LIB=$library
export EBBTIDE_LIB
eval "set -- $(cat "$folder/arguments")"
if ! "$configure" "$@" --with-compat --add-dynamic-module="$here" >"$folder/log" 2>&1 ||
    ! make -f objs/Makefile -j "$(nproc)" objs/ngx_http_ebbtide_module.so >>"$folder/log" 2>&1; then
    tail -n 40 "$folder/log"
    echo "the module was not built: $folder/log"
    exit 1
fi
# A new file, for a running nginx may have loaded the one that is there.
cp objs/ngx_http_ebbtide_module.so "$folder/module.new"
mv -f "$folder/module.new" "$folder/ngx_http_ebbtide_module.so"
echo "$folder/ngx_http_ebbtide_module.so, for $(sed 's/^nginx version: //' "$folder/version")"
