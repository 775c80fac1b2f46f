#!/usr/bin/env bash
# What only a machine with a CUDA GPU shows: the tests that need one, then step and cell times.
#   scripts/on_gpu.sh [FOLDER [GROUP...]]   logs and csv files go to FOLDER, which must be new (default: on_gpu here)
# Groups: tests steps compiled kernels cells decode, by default all; their limits add up to 10, 9, 6, 6, 5 and 1 minutes.
# PYTHON names the interpreter. Every part has a limit of its own and the next one starts in any case; what failed is said,
# and the exit code is 1 then.
set -uo pipefail
OUT=$(realpath -m "${1:-$(dirname "$0")/../on_gpu}")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
GROUPS_KNOWN="tests steps compiled kernels cells decode"
CHOSEN=${*:2}
CHOSEN=${CHOSEN:-$GROUPS_KNOWN}
for group in $CHOSEN; do
    [[ " $GROUPS_KNOWN " == *" $group "* ]] || { echo "$group is no group; there are: $GROUPS_KNOWN" >&2; exit 2; }
done
mkdir "$OUT" || exit 2
failed=0 group=""
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
MICRO=""
SMALL="--model vit_small_patch14_dinov2 --size 224"
BASE="--model vit_base_patch16_224 --size 224"

part() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2
    shift 2
    [[ " $CHOSEN " == *" $group "* ]] || return 0
    echo "== $name"
    if ! timeout "$limit" "$@" >>"$OUT/$name.log" 2>&1; then
        failed=1
        echo "$name: failed or ran out of its $limit s, see $OUT/$name.log"
    fi
    tail -n 4 "$OUT/$name.log"
}

step() { # NAME SECONDS OPTIONS...
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$PYTHON" benchmarks/step.py --device cuda --rounds 5 --out "$OUT/step.csv" "$@"
}

nvidia-smi -L
TESTS=("$PYTHON" -m pytest -m gpu -n "$(nproc)" -p no:cacheprovider --timeout 120 --tb=short)
group=tests
OMP_NUM_THREADS=1 part steps 300 "${TESTS[@]}" peftbench/contracts tests/unit tests/integration/test_feature_cache.py
OMP_NUM_THREADS=1 part cells 300 "${TESTS[@]}" tests/integration/test_on_cuda.py
group=steps
step micro 60 $MICRO --precision fp32 bf16 --methods linear lora adaptformer vpt_deep ssf convpass full
step base 90 $BASE --precision bf16 --methods lora adaptformer vpt_deep ssf convpass full
step small 60 $SMALL --precision bf16 --methods lora ssf full
step single 60 $BASE --precision fp32 --methods lora
for network in "$MICRO" "$BASE"; do
    LAST=("$PYTHON" benchmarks/last_block.py bf16 --device cuda $network --batch 64 --methods lora ssf full)
    part last_block 60 "${LAST[@]}" --out "$OUT/last_block.csv"
done
for network in "$SMALL" "$BASE"; do
    PASSES=("$PYTHON" benchmarks/unbinding.py bf16 --device cuda $network --batch 64 --methods lora full)
    part unbinding 60 "${PASSES[@]}" --out "$OUT/unbinding.csv"
done
group=compiled
step compiled 120 $BASE --precision bf16 --methods lora ssf --compile
step compiled_small 60 $SMALL --precision bf16 --methods lora --compile
step compiled_micro 60 $MICRO --precision bf16 --methods lora adaptformer --compile
part compile 120 "$PYTHON" benchmarks/compile.py --device cuda $BASE --precision bf16 --methods lora --out "$OUT/compile.csv"
group=kernels
for network in "$MICRO" "$SMALL" "$BASE"; do
    part kernels 60 "$PYTHON" benchmarks/kernels.py --device cuda $network --out "$OUT/kernels.csv"
    part streams 60 "$PYTHON" benchmarks/streams.py --device cuda $network --out "$OUT/streams.csv"
done
group=cells
CELL=("$PYTHON" benchmarks/cell.py --device cuda $BASE --side 500 --precision bf16 --train 100 --test 150 --rounds 1)
part cell 180 "${CELL[@]}" --workers 8 --out "$OUT/cell.csv"
part cell_of_100_epochs 120 "${CELL[@]}" --alone --epochs 100 --out "$OUT/cell.csv"
group=decode
part decode 60 "$PYTHON" benchmarks/decode.py --images 4096 --workers "$(nproc)" --rounds 1 --out "$OUT/decode.csv"
echo "csv files and logs: $OUT"
exit "$failed"
