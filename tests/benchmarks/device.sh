#!/usr/bin/env bash
# Everything that only a device can show, in under ten minutes: the tests of tests/gpu, the workloads against Captum,
# lower precision and other libraries' rows of the same device, as tables like those of docs/dev/measured.md.
#
#     bash tests/benchmarks/device.sh            on a machine with a GPU
#     bash tests/benchmarks/device.sh cpu        the same steps on the processor, few rounds: does the script run through?
#
# Logs, result files and the page go to $OUT (default: device-results). A step that fails or takes too long is told, and
# the next one runs; the exit status is the number of such steps. LIMIT: seconds for all of it. The checkout's own result
# files and page are put back: copy what is to stay from $OUT.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
DEVICE=${1:-${DEVICE:-cuda}}
OUT=${OUT:-$PWD/device-results}
LIMIT=${LIMIT:-580}
PYTHON=${PYTHON:-python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
FAILED=0
mkdir -p "$OUT" || exit 1
MEASURED=tests/benchmarks/measured PAGE=docs/dev/measured.md
KEPT=$(mktemp -d)
cp -r "$MEASURED" "$PAGE" "$KEPT/"
put_back() { rm -rf "$MEASURED" && cp -r "$KEPT/measured" "$MEASURED" && cp "$KEPT/measured.md" "$PAGE"; rm -rf "$KEPT"; }
trap put_back EXIT

# step NAME SECONDS COMMAND...: run it within its seconds and what is left of all, and tell how it went
step() {
  local name=$1 most=$2 left=$((LIMIT - SECONDS)) begin=$SECONDS status said
  shift 2
  if [ "$left" -lt 5 ]; then
    said="not run: $LIMIT s are over" status=1
  else
    timeout -k 5 "$((most < left ? most : left))" "$@" >"$OUT/$name.log" 2>&1
    status=$?
    case $status in
      0) said="done" ;;
      124 | 137) said="took more than $((most < left ? most : left)) s" ;;
      *) said="failed with status $status: $(tail -n 1 "$OUT/$name.log" | cut -c1-200)" ;;
    esac
  fi
  [ "$status" -eq 0 ] || FAILED=$((FAILED + 1))
  echo "$name: $said ($((SECONDS - begin)) s)" | tee -a "$OUT/summary.txt"
}

: >"$OUT/summary.txt"
if [ "$DEVICE" = cpu ]; then
  WORKLOADS="W6-conductance" ROUNDS=1 PRECISION="lite0-ig" MORE="--size 64"  # no speed: bfloat16 is imitated
else
  WORKLOADS="W1 W2 W3 W4-ablation W4-kernel-shap W5-vit W5-mlp W6-conductance W7"
  ROUNDS=3 MORE="" PRECISION="W1 kernel-shap rise occlusion lite0-ig lite0-kernel-shap lite0-rise lite0-occlusion"
fi
step torch 60 "$PYTHON" -c "import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())
assert '$DEVICE' == 'cpu' or torch.cuda.is_available(), 'torch finds no CUDA device; give cpu as the argument'"
step tests-gpu 200 "$PYTHON" -m pytest -q -p no:cacheprovider tests/gpu
for name in $WORKLOADS; do
  step "speed-$name" "$([ "$DEVICE" = cpu ] && echo 120 || echo 40)" \
    "$PYTHON" -m tests.benchmarks.bench_speed "$name" --device "$DEVICE" --rounds "$ROUNDS" --limit 30
done
for name in $PRECISION; do
  step "precision-$name" "$([ "$DEVICE" = cpu ] && echo 120 || echo 20)" \
    "$PYTHON" -m tests.benchmarks.bench_precision "$name" --device "$DEVICE" --rounds "$ROUNDS" $MORE
done
step page 30 "$PYTHON" -m tests.benchmarks.measured
cp "$MEASURED"/*.json "$PAGE" "$OUT/"
echo "$FAILED steps did not end well; $SECONDS s; results in $OUT" | tee -a "$OUT/summary.txt"
exit "$FAILED"
