#!/bin/sh
# Installs ngx_http_ebbtide_module.so, and the line that loads it, or removes both.
#
#   nginx/install.sh FILE FOLDER            the module, and where nginx loads modules from
#   nginx/install.sh --remove NAME FOLDER
#
# The line goes where the system keeps such lines: on Debian and Ubuntu into NGINX_AVAILABLE, with a
# link in NGINX_ENABLED, which nginx.conf includes. Elsewhere, the line for nginx.conf is printed. An
# nginx.conf (NGINX_CONF) that loads the module by itself stays as it is. DESTDIR is honoured.
set -eu
: "${DESTDIR:=}"
: "${NGINX_ENABLED:=/etc/nginx/modules-enabled}"
: "${NGINX_AVAILABLE:=/usr/share/nginx/modules-available}"
# nginx reads the links in the order of their names: before 50-mod-http-lua.conf.
link=$DESTDIR$NGINX_ENABLED/40-mod-http-ebbtide.conf
line=$DESTDIR$NGINX_AVAILABLE/mod-http-ebbtide.conf

# A new file that takes the old one's place: a running nginx keeps the module that it has loaded.
put() {
    install -m 644 "$1" "$2.new"
    mv -f "$2.new" "$2"
}

if [ "$1" = --remove ]; then
    rm -f "$link" "$line" "$DESTDIR$3/$2"
    echo "removed: $DESTDIR$3/$2, and $link; nginx runs without them once it is restarted"
    exit
fi

module=$2/$(basename "$1")
install -d "$DESTDIR$2"
put "$1" "$DESTDIR$module"
echo "installed: $DESTDIR$module"

if [ ! -d "$NGINX_ENABLED" ] && [ ! -d "$DESTDIR$NGINX_ENABLED" ]; then
    echo "to load it, put this at the top of nginx.conf:"
    echo "    load_module $module;"
    exit
fi
conf=${NGINX_CONF:-$(nginx -V 2>&1 | tr ' ' '\n' | sed -n 's/^--conf-path=//p')}
if [ -z "$DESTDIR" ] && grep -qs "^[[:space:]]*load_module[[:space:]].*$(basename "$1")" "$conf"; then
    echo "loaded by: $conf, as before"
    exit
fi
install -d "$DESTDIR$NGINX_ENABLED" "$DESTDIR$NGINX_AVAILABLE"
echo "load_module $module;" >"$line.new"
mv -f "$line.new" "$line"
ln -sfr "$line" "$link"
echo "loaded by: $link; nginx uses it once it is restarted, and no other load_module line is needed"
