#!/usr/bin/env bash
# On a machine with a GPU, under ten minutes: the tests of tests/gpu, then the workloads against Captum and lower precision,
# as rows of docs/dev/measured.md. DEVICE=cpu QUICK=1 tries the script itself where there is none.
set -uo pipefail
cd "$(dirname "$0")/../.."
DEVICE=${DEVICE:-cuda}
ROUNDS=$([ -n "${QUICK:-}" ] && echo 1 || echo 3)
NAMES=$([ -n "${QUICK:-}" ] && echo W6-conductance || echo W1 W3 W4-ablation W4-kernel-shap W5-vit W5-mlp W6-conductance W7)
timeout 240 python -m pytest -q tests/gpu || echo "tests/gpu: not all passed"
for name in $NAMES; do
  timeout "$([ -n "${QUICK:-}" ] && echo 200 || echo 45)" python -m tests.benchmarks.bench_speed "$name" --device "$DEVICE" --rounds "$ROUNDS" --limit 30 || echo "$name: not done"
done
python -m tests.benchmarks.measured
