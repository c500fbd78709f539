#!/bin/sh
# Fetches the test suites of Lua libraries that Debian ships, as their sources
# carry them, into a folder: suites.sh FOLDER. Only what is not there yet. Needs
# apt-get and Debian's mirror, but no root, and leaves the system's own lists as they are.
set -u

folder=$1
state=$folder/apt

# The suites: Debian's source package.
suites="lua-lpeg lua-cjson lua-filesystem luasocket lua-penlight lua-zlib lua-iconv"

apt_here() {
  apt-get -qq -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" \
    -o APT::Sandbox::User=root "$@"
}

# fetch SUITE RELEASE
fetch() {
  mkdir -p "$folder/$1.new" && cd "$folder/$1.new" || return 1
  apt_here source --print-uris "$1/$2" 2>/dev/null >uris
  # The sources alone: Debian's changes to them are not needed.
  sed -n "s/^'\([^']*\.orig\.tar\.[a-z]*\)' \([^ ]*\) .* SHA256:\([0-9a-f]*\)$/\1 \2 \3/p" uris \
    >wanted
  read -r uri file sum <wanted || return 1
  /usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file "$uri" "$file" "SHA256:$sum" \
      >/dev/null 2>&1 || return 1
  tar --strip-components=1 -xf "$file" || return 1
  rm -f "$file" uris wanted
  mv "$folder/$1.new" "$folder/$1"
}

# The same. A fetch that fails, or failed before, leaves nothing behind.
fetch_whole() {
  rm -rf "${folder:?}/$1.new"
  (fetch "$1" "$2") && return 0
  rm -rf "${folder:?}/$1.new"
  return 1
}

told=
own=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) && state=$folder/apt
for suite in $suites; do
  [ -d "$folder/$suite" ] && continue
  if [ ! -f "$state/sources.list" ]; then
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    for release in "$own" stable; do
      echo "deb-src http://deb.debian.org/debian $release main"
    done | sort -u >"$state/sources.list"
    # Warnings and errors alone. Where one release fails, the other may have the suites.
    told=$(apt_here update 2>&1)
  fi
  # A mirror may have no sources of an old release any more.
  fetch_whole "$suite" "$own" || fetch_whole "$suite" stable || {
    echo "missing: the test suite of $suite"
    [ -z "$told" ] || echo "$told" | sed 's/^/apt-get update: /'
    told=
  }
done
rm -rf "$state"
exit 0
