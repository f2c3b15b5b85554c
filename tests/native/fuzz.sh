#!/usr/bin/env bash
# Fuzzes the core with coverage guidance, from the sample files or those found before, until stopped. Needs clang.
#
#     tests/native/fuzz.sh FOLDER [libFuzzer's options, such as -max_total_time=600]
set -euo pipefail
folder=$(realpath "${1:?where to keep what is found}"); shift
cd "$(dirname "$0")/../.."
mkdir -p "$folder"
csrc=fastload/csrc
clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -pthread tests/native/fuzz.cpp \
    -I$csrc/{cache,dct,jpeg,render,simd} $csrc/{cache,dct,jpeg,render,simd}/*.cpp -ldl -o "$folder/fuzz"
mkdir -p "$folder/corpus"
export FASTLOAD_MAX_PIXELS=1000000
FASTLOAD_TURBOJPEG=${FASTLOAD_TURBOJPEG:-$(python3 -c "from fastload import _core; print(_core.turbojpeg_path())")}
export FASTLOAD_TURBOJPEG
cd "$folder"
exec ./fuzz -max_len=60000 -timeout=60 -rss_limit_mb=2048 "$@" corpus "$OLDPWD"/tests/data/{jpeg,golden,hostile}
