#!/usr/bin/env bash
# Runs what tools/gpu-pack packed, on a machine with a GPU and its driver; needs bash, tar, and xz or python3. Takes less than nine minutes.
#   bash .gpu/run.sh                    everything, on the first GPU
#   bash .gpu/run.sh --emulator DIR     the same on tiny sizes, with the stand-in driver that kernels/emulator/build put into DIR
# Writes to $OUT (default: gpu-results): results.json, summary.txt, and a log of each step. What fails or takes too long is named at the end and
# keeps nothing else from running. Exits with 1 if anything failed. GPU_PACK_SECONDS (530) is how long all of it may take.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
emulator=
[ "${1:-}" = --emulator ] && emulator=$(cd "${2:?--emulator needs a folder}" && pwd)
OUT=${OUT:-$PWD/gpu-results}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
limit=${GPU_PACK_SECONDS:-530}
steps=$OUT/steps.tsv
: >"$steps"

# step NAME SECONDS COMMAND..: its output goes to a log; how it ended, and how long it took, to the list of steps.
step() {
    local name=$1 seconds=$2 began=$SECONDS left=$((limit - SECONDS)) status
    shift 2
    if [ "$left" -lt 5 ]; then
        printf '%s\tno time left\t0\n' "$name" >>"$steps"
        return
    fi
    [ "$seconds" -gt "$left" ] && seconds=$left
    timeout --kill-after=5 "$seconds" "$@" >"$OUT/$name.log" 2>&1
    status=$?
    case $status in
    0) status=ok ;;
    124 | 137) status="longer than $seconds s" ;;
    *) status="failed with $status" ;;
    esac
    printf '%s\t%s\t%d\n' "$name" "$status" "$((SECONDS - began))" >>"$steps"
    printf '%4d s  %-32s %s\n' "$SECONDS" "$name" "$status"
}

skip() { # NAME REASON
    printf '%s\tskipped: %s\t0\n' "$1" "$2" >>"$steps"
    printf '%4d s  %-32s skipped: %s\n' "$SECONDS" "$1" "$2"
}

unpack() {
    if command -v xz >/dev/null; then
        xz -dc "$here/pack.tar.xz" | tar -x -C "$work"
    else
        python3 -c 'import lzma, sys, tarfile; tarfile.open(fileobj=lzma.open(sys.argv[1]), mode="r|").extractall(sys.argv[2])' \
            "$here/pack.tar.xz" "$work"
    fi
}
unpack || { echo "the pack cannot be unpacked: xz or python3 is needed"; exit 1; }
cp "$work/contents.json" "$OUT/"

# Tests look for their bundles where they were built, and for kernels of those where cargo has its temporary files.
told() { sed -n "s/^ *\"$1\": \"\(.*\)\",*\$/\1/p" "$work/contents.json"; }
root=$(told root)
if [ ! -e "$root" ] && [ -e "$here/../tests/bundles" ]; then
    mkdir -p "$(dirname "$root")" && ln -s "$(cd "$here/.." && pwd)" "$root"
fi
kernels=$(told tmp)/kernels
if [ -z "$emulator" ] && mkdir -p "$kernels"; then cp "$work"/bundles/*/kernels/* "$kernels/"; fi

export XDG_CACHE_HOME=$work/cache
bin=$work/bin
brief=()
if [ -n "$emulator" ]; then
    export LD_LIBRARY_PATH=$emulator${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} GAVEL_NVRTC=$emulator EMU_CAPABILITY=9.0
    brief=(--brief)
else
    export LD_LIBRARY_PATH=$work/nvrtc${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} GAVEL_NVRTC=$work/nvrtc
fi
# cuBLASLt is no part of the pack, being as large as ten of it; the machine's own is a yardstick where there is one, under the names that are asked for.
if [ -z "$emulator" ]; then
    blas=$(timeout 20 find /usr/local /usr/lib /opt "$HOME" -name 'libcublasLt.so.12' -print -quit 2>/dev/null)
    if [ -n "$blas" ]; then
        for name in libcublasLt.so libcublasLt.so.12; do ln -s "$blas" "$work/nvrtc/$name"; done
    fi
fi
# Tests and benches take the machine's driver, not an emulator of their own.
real=(env GAVEL_CUDA=real)
gpu=("${real[@]}" "$bin/gpu")
measured=(--bench "${brief[@]}" --cubins "$work/cubins")

machine() {
    uname -a
    nproc
    head -1 /proc/meminfo
    grep -m1 'model name' /proc/cpuinfo
    cat /proc/sys/vm/overcommit_memory /sys/kernel/mm/transparent_hugepage/enabled
    ulimit -l
    if command -v nvidia-smi >/dev/null; then nvidia-smi -q; else echo "no nvidia-smi"; fi
    "$bin/gavel" doctor
    true
}

# Bundles on the engine, against the float64 outputs that they record.
check_bundle() { # BUNDLE PRECISION
    local log
    if log=$("$SERVER" check "$1" --engine cuda --precision "$2" 2>&1); then
        printf 'ok      %s in %s\n%s\n' "${1##*/}" "$2" "$log"
    else
        printf 'FAILED  %s in %s\n%s\n' "${1##*/}" "$2" "$log"
        return 1
    fi
}
export -f check_bundle
export SERVER=$bin/gavel
check_bundles() {
    for precision in f32 bf16; do
        for bundle in "$BUNDLES"/*/; do printf '%s\0%s\0' "${bundle%/}" "$precision"; done
    done | xargs -0 -P 4 -n 2 bash -c 'check_bundle "$0" "$1"'
}
export -f check_bundles
export BUNDLES=$work/bundles

# One server after the other, each with the same load from this machine.
serve_with() { # NAME ENGINE PRECISION
    if [ $((limit - SECONDS)) -lt 5 ]; then
        step "serve-$1" 60 true
        return
    fi
    "$bin/gavel" serve --models "$work/models" --engine "$2" --precision "$3" --listen 127.0.0.1:17400 --admin 127.0.0.1:17401 \
        --spin-us 100 --shards "$shards" >"$OUT/serve-$1.server.log" 2>&1 &
    local server=$!
    step "serve-$1" 60 "${gpu[@]}" serve "${measured[@]}" --bundle "$work/models/$model" --address 127.0.0.1:17400 --name "$1" \
        --json "$OUT/serve-$1.json"
    kill -TERM "$server" 2>/dev/null
    for _ in $(seq 50); do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$server" 2>/dev/null
    wait "$server" 2>/dev/null
}

machine >"$OUT/machine.txt" 2>&1
if command -v nvidia-smi >/dev/null; then
    # What the clocks did while figures were taken.
    nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,utilization.gpu --format=csv --loop=1 \
        >"$OUT/clocks.csv" 2>&1 &
    clocks=$!
fi
step facts 75 "${gpu[@]}" facts "${measured[@]}" --json "$OUT/facts.json"

# Many processes, because NVRTC compiles one source at a time in each.
run_tests() { # EXECUTABLE FILTER..
    "$@" --list --format terse | sed -n 's/: test$//p' | xargs -r -P "$(nproc)" -n "$TESTS_AT_ONCE" "$1" --exact --test-threads 1
}
export -f run_tests
export TESTS_AT_ONCE=4

# Before anything else is launched of them: kernels of warpgroups against those of warps.
if [ -z "$emulator" ]; then
    step twins 60 "${real[@]}" bash -c 'run_tests "$@"' run_tests "$bin/test-lib" engine::cuda::tests::wide_layers
    # A kernel that is wrong may break the device for the whole process: nothing that takes figures tries it then.
    grep -q "^twins$(printf '\t')ok" "$steps" || export GAVEL_CUDA_WIDE_LAYERS=mma
fi

step bundles 60 bash -c check_bundles

step kernels 135 "${gpu[@]}" kernels "${measured[@]}" --facts "$OUT/facts.json" --seconds 110 --json "$OUT/kernels.json"

model=dlrm-kaggle
mkdir -p "$work/models"
rows=1000000
[ -n "$emulator" ] && rows=100
cpus=$(nproc)
shards=$((cpus > 3 ? cpus / 2 : 1))
step synth 60 "$bin/gavel" synth dlrm-kaggle --rows-cap "$rows" --out "$work/models/$model"
serve_with cuda-bf16 cuda bf16
serve_with cpu cpu f32
serve_with null null f32
serve_with cuda-f32 cuda f32

# Names of tests that are worth their time on a small run, and under tools that slow them down.
few=every_size_is_scored

# The machine's own knows its driver; the pack may have one.
sanitizer=
for found in "$(command -v compute-sanitizer)" /usr/local/cuda*/bin/compute-sanitizer "$work/sanitizer/compute-sanitizer"; do
    if [ -x "$found" ]; then sanitizer=$found && break; fi
done
sanitize() { # TOOL
    if [ -n "$emulator" ]; then
        skip "$1" "a GPU's tool"
    elif [ -z "$sanitizer" ]; then
        skip "$1" "neither this machine nor the pack has compute-sanitizer"
    else
        local tool=("$sanitizer" --tool "$1" --error-exitcode 9)
        step "$1" 40 "${real[@]}" "${tool[@]}" "$bin/test-cuda" "$few" --test-threads 1
        step "$1-bundle" 40 "${tool[@]}" "$bin/gavel" check "$BUNDLES/dlrm" --engine cuda --precision bf16
        step "$1-wide" 60 "${real[@]}" "${tool[@]}" "$bin/test-lib" engine::cuda::tests::wide_layers --test-threads 1
    fi
}

sanitize memcheck

for test in "$bin"/test-*; do
    name=${test##*/}
    filter=()
    [ "$name" = test-lib ] && filter=(engine::cuda)
    if [ -n "$emulator" ]; then
        [ "$name" = test-cuda ] || continue
        filter=("$few")
    fi
    step "$name" 100 "${real[@]}" bash -c 'run_tests "$@"' run_tests "$test" "${filter[@]}"
done
sanitize racecheck

ncu=$(command -v ncu || ls /usr/local/cuda*/bin/ncu /opt/nvidia/nsight-compute/*/ncu 2>/dev/null | head -1)
if [ -n "$ncu" ]; then
    step ncu 60 "${real[@]}" "$ncu" --clock-control none --kernel-name 'regex:^(contexts|candidates)' --launch-count 12 --section SpeedOfLight \
        --section Occupancy --section MemoryWorkloadAnalysis --section WarpStateStats \
        "$bin/gpu" kernels "${measured[@]}" --rows 4096
else
    skip ncu "this machine has no ncu"
fi

[ -n "${clocks:-}" ] && kill "$clocks"
"${gpu[@]}" collect --folder "$OUT" --json "$OUT/results.json" | tee "$OUT/summary.txt"
exit "${PIPESTATUS[0]}"
