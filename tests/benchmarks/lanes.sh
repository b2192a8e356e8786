#!/usr/bin/env bash
# Every workload at once on a machine of 16 cores and a GPU, two cores a lane. $1: folder for the results, $2: seconds.
set -u
out=${1:?folder} seconds=${2:-380}
lane() { # cores name command
  OMP_NUM_THREADS=2 timeout "$seconds" taskset -c "$1" bash -c "$3" >"$out/$2.txt" 2>&1 &
}
bench="python3 -m tests.benchmarks.bench_speed"
lane 0,1 gpu "$bench --device cuda --rounds 5 --limit 25"
lane 2,3 path "$bench W1 W5-vit W5-mlp W7 --limit 100"
lane 4,5 tutorial "$bench W8 --cold --limit 200"
lane 6,7 occlusion "$bench W3 --limit 280"
lane 8,9 small-windows "$bench W3b --limit 280"
lane 10,11 coalitions "$bench W4-ablation W4-kernel-shap W4-lime W4-shapley --limit 90"
lane 12,13 layers "$bench W6 W6-conductance --limit 120"
lane 14,15 memory "$bench W1m --peak; $bench W2 --cold --limit 200"
wait
