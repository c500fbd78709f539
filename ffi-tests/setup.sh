#!/bin/sh
# What `make test` needs from the system. What is missing is installed where
# that is allowed (apt-get as root, rustup), and otherwise named in one line;
# the tests that need it then fail.
set -u

missing=

# needs "PACKAGES" COMMAND...: the packages provide what the command tries.
needs() {
  packages=$1
  shift
  "$@" >/dev/null 2>&1 || missing="$missing $packages"
}

look() {
  missing=
  needs "gcc libc6-dev" "${CC:-cc}" --version
  needs "g++" "${CXX:-c++}" --version
  needs "binutils" readelf --version
  needs "pkg-config" pkg-config --version
  needs "valgrind libc6-dbg" valgrind --quiet true
  # OpenResty's branch: nginx's Lua module depends on it, and it cannot be installed beside the
  # other one.
  needs "luajit2" luajit -v
  needs "lua-lpeg lua-cjson lua-filesystem lua-socket lua-zlib lua-iconv" \
    luajit -e 'for m in ("lpeg cjson lfs socket zlib iconv"):gmatch "%a+" do require(m) end'
  needs "libluajit2-5.1-2" "${CC:-cc}" -shared -o /dev/null -l:libluajit-5.1.so.2
  needs "python3" python3 --version
  # For building an nginx with Lua compiled in, from source packages.
  needs "dpkg-dev" dpkg-source --version
  # For a Python with lupa from PyPI.
  needs "python3-venv" python3 -c "import ensurepip, venv"
  needs "nginx" nginx -v
  needs "nginx-dev" test -x /usr/share/nginx/src/configure
  needs "libnginx-mod-http-lua" test -f /usr/lib/nginx/modules/ngx_http_lua_module.so
  needs "wrk" which wrk
  # Programs with the shared LuaJIT, for the law of memory.
  needs "neovim" nvim --version
  needs "pdns-recursor" test -x /usr/sbin/pdns_recursor
  needs "dnsdist" test -x /usr/bin/dnsdist
  needs "knot-resolver" test -x /usr/sbin/kresd
  needs "minetest-server" test -x /usr/lib/minetest/minetestserver
  # For promtool, which is in no package of its own.
  needs "prometheus" promtool --version
  needs "chromium" chromium --version
  missing=${missing# }
}

apt_install() {
  [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
  echo "installing: $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || return 1
  without_services install_packages "$@"
}

# All at once; or one by one, since one that is not to be had keeps no other away. What the machine
# has stays.
install_packages() {
  install="apt-get install -qq -y --no-install-recommends --no-remove"
  $install "$@" && return
  for package; do
    $install "$package"
  done
}

# without_services COMMAND...: packages that it installs start no service (nginx, prometheus and
# the DNS servers would). A policy that the machine has is left as it is.
without_services() {
  policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ]; then
    "$@"
    return
  fi
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
  "$@"
  status=$?
  rm -f "$policy"
  trap - EXIT HUP INT TERM
  return "$status"
}

# rust_needs COMPONENT COMMAND: a cargo command that a small toolchain lacks.
rust_needs() {
  "${CARGO:-cargo}" "$2" --version >/dev/null 2>&1 && return
  rustup component add "$1" || echo "missing: the Rust component $1"
}

look
if [ -n "$missing" ]; then
  # shellcheck disable=SC2086 # a list of packages
  apt_install $missing
  look
fi
[ -z "$missing" ] || echo "missing, and not to be had here: $missing"
rust_needs rustfmt fmt
rust_needs clippy clippy
exit 0
