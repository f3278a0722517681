#!/bin/sh
# Rebuilds every guest and SHA256SUMS. Needs a rustc with the target wasm32-wasi and wasm-ld; on Debian 12:
#   apt-get install rustc libstd-rust-dev-wasm32 lld
# The committed files were made by rustc 1.63; another compiler makes other bytes that do the same.
# RUSTC and TARGET choose another one, for example RUSTC=rustc TARGET=wasm32-wasip1.
set -eu
cd "$(dirname "$0")"
: "${RUSTC:=/usr/bin/rustc}" "${TARGET:=wasm32-wasi}"
for guest in flood hello hog market_map market_reduce ring spin trap; do
    source=$guest.rs
    [ -f "$source" ] || source=$guest/main.rs
    "$RUSTC" --edition 2021 --crate-name "$guest" --target "$TARGET" \
        -C opt-level=3 -C lto -C codegen-units=1 -C panic=abort -C strip=symbols \
        --remap-path-prefix "$PWD=." -D warnings "$source" -o "$guest.wasm"
done
chmod 644 ./*.wasm
LC_ALL=C sha256sum ./*.rs ./*/*.rs ./*.wasm | sed 's|  \./|  |' > SHA256SUMS
