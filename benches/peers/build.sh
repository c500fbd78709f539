#!/bin/sh
# Builds the allocators that ebbtide is compared with: build.sh FOLDER
# Each becomes FOLDER/NAME.so, from sources that cargo fetches.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
# Its build script, used without cmake, leaves snmalloc's assertions on.
export CXXFLAGS="${CXXFLAGS:-} -DNDEBUG"

for peer in mimalloc-v2 mimalloc-v3 jemalloc snmalloc free-lists; do
  "${CARGO:-cargo}" build --quiet --release --locked --features "$peer" \
    --manifest-path "$here/Cargo.toml" --target-dir "$folder/$peer-build"
  cp "$folder/$peer-build/release/libpeer.so" "$folder/$peer.so"
done
