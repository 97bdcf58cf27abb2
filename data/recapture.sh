#!/bin/sh
# Makes data/redis-mget.parquet anew: a redis-server with three million keys, captured in its steady state
# while redis-benchmark asks for ten random keys at a time. About five minutes on two cores.
#
# Needs (Debian 12): apt install qemu-user redis-server redis-tools
set -eu
cd "$(dirname "$0")/.."

OUT=${1:-data/redis-mget.parquet}
KEYS=3000000
ACCESSES=${ACCESSES:-8000000}
DIR=$(mktemp -d)
SOCKET=$DIR/redis.sock
trap 'rm -rf "$DIR"' EXIT

cargo build --release -p capture-qemu
cargo build --release -p trace --example record
TARGET=${CARGO_TARGET_DIR:-target}/release

# The server, from its start under the emulator; recording begins at SIGUSR1.
"$TARGET/examples/record" "$OUT" limit="$ACCESSES" signal -- \
    redis-server --port 0 --unixsocket "$SOCKET" --save "" --dir "$DIR" --logfile "$DIR/log" &
RECORD=$!
until redis-cli -s "$SOCKET" ping >/dev/null 2>&1; do sleep 0.2; done

# Keys as redis-benchmark names them, in a scattered order, with values of 64 bytes.
awk -v keys=$KEYS '
    BEGIN {
        value = sprintf("%064d", 0); gsub("0", "v", value)
        for (i = 0; i < keys; i += 100) {
            printf "*201\r\n$4\r\nMSET\r\n"
            for (j = i; j < i + 100; j++)
                printf "$16\r\nkey:%012d\r\n$64\r\n%s\r\n", j * 1299709 % keys, value
        }
    }
' | redis-cli -s "$SOCKET" --pipe
redis-cli -s "$SOCKET" info memory | grep used_memory_human

# The load: 50 clients, each asking for 10 of the keys, uniformly at random, and waiting for the answer.
K=key:__rand_int__
redis-benchmark -s "$SOCKET" -r $KEYS -n 1000000000 -c 50 mget $K $K $K $K $K $K $K $K $K $K >/dev/null 2>&1 &
LOAD=$!
sleep 2
kill -USR1 $RECORD
# Until the accesses are there; the file has its name when they are.
while kill -0 $RECORD 2>/dev/null && [ ! -s "$OUT" ]; do sleep 0.2; done
sleep 1
kill $LOAD 2>/dev/null || true
redis-cli -s "$SOCKET" shutdown nosave >/dev/null 2>&1 || true
wait $RECORD
