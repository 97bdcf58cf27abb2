#!/bin/sh
# Runs the freestanding program under QEMU and turns its verdict into an exit
# code: it exits by writing to port 0xf4, and QEMU then exits with
# (value << 1) | 1; 33 is the verdict "all checks passed".
if ! command -v qemu-system-x86_64 >/dev/null 2>&1; then
    echo "metal: SKIPPED: qemu-system-x86_64 is missing; install it with: apt-get install qemu-system-x86" >&2
    exit 0
fi
qemu-system-x86_64 -M microvm,acpi=off -accel tcg -cpu max -m 256M -nodefaults -display none \
    -no-reboot -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$1"
status=$?
if [ "$status" -eq 33 ]; then
    exit 0
fi
echo "metal: failed: QEMU's exit status is $status, expected 33" >&2
exit 1
