#!/bin/sh
# Boots the kernel under QEMU and turns its verdict into an exit code.
# Usage: run.sh KERNEL [SCENARIO [NODES [CPUS [MORE...]]]]; without a scenario, all that must pass.
#
# The machine: NODES nodes (2) of 512/NODES MiB with CPUS CPUs (4) between them, and one more node
# of 128 MiB without CPUs, where the kernel itself lies. The kernel exits by writing to port 0xf4, and
# QEMU then exits with (value << 1) | 1; 33 is the verdict "all checks passed".
if ! command -v qemu-system-x86_64 >/dev/null 2>&1; then
    echo "metal: SKIPPED: qemu-system-x86_64 is missing; install it with: apt-get install qemu-system-x86" >&2
    exit 0
fi
kernel=$1
if [ "$#" -eq 1 ]; then
    # All that must pass.
    for scenario in life "mitosis 4" babelfish guest ptemagnet vmitosis shadow segments passthrough; do
        # shellcheck disable=SC2086 # a scenario and its nodes are two words
        sh "$0" "$kernel" $scenario || exit 1
    done
    exit 0
fi
scenario=$2
nodes=${3:-2}
cpus=${4:-4}
if [ "$#" -gt 4 ]; then
    shift 4
    more=$*
fi
set -- -M pc -accel tcg,thread=multi -cpu max -smp "$cpus" -m 640M
node=0
while [ "$node" -lt "$nodes" ]; do
    first=$((node * cpus / nodes))
    last=$(((node + 1) * cpus / nodes - 1))
    set -- "$@" -object "memory-backend-ram,id=m$node,size=$((512 / nodes))M" \
        -numa "node,nodeid=$node,memdev=m$node,cpus=$first-$last"
    node=$((node + 1))
done
timeout 120 qemu-system-x86_64 "$@" -object "memory-backend-ram,id=own,size=128M" -numa "node,nodeid=$nodes,memdev=own" \
    -nodefaults -display none -no-reboot -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 \
    -kernel "$kernel" -initrd "$kernel" -append "scenario=$scenario ${more:-}"
status=$?
if [ "$status" -eq 124 ]; then
    echo "metal: failed: it did not end within 120 seconds" >&2
    exit 1
fi
if [ "$status" -eq 33 ]; then
    exit 0
fi
echo "metal: failed: QEMU's exit status is $status, expected 33" >&2
exit 1
