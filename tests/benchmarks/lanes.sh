#!/usr/bin/env bash
# Every workload at once on a machine of 16 cores and a GPU: two cores a lane. $1: folder for the results, $2: seconds.
set -u
out=${1:?folder} seconds=${2:-380}
lane() { # cores name command...
  local cores=$1 name=$2
  shift 2
  OMP_NUM_THREADS=2 timeout "$seconds" taskset -c "$cores" bash -c "$*" >"$out/$name.txt" 2>&1 &
}
bench="python3 -m tests.benchmarks.bench_speed"
gpu="W1 W1m W3 W4-kernel-shap W4-shapley W5-vit W5-mlp W6 W6-conductance W7 W2 W3b W8"
lane 0,1 gpu "python3 -m pytest tests/gpu -q -p no:cacheprovider -p no:xdist -o addopts='' --import-mode=importlib -W ignore 2>&1 | tail -60; $bench $gpu --device cuda --rounds 5 --limit 40"
lane 2,3 w1 "$bench W1 W5-vit W5-mlp --limit 100"
lane 4,5 w2 "$bench W2 --cold --limit 260"
lane 6,7 w3 "$bench W3 --limit 280"
lane 8,9 w3b "$bench W3b --limit 280"
lane 10,11 w4 "$bench W4-ablation W4-kernel-shap W4-lime W4-shapley --limit 70"
lane 12,13 w6 "$bench W6 W6-conductance W7 --limit 90"
lane 14,15 w8 "$bench W8 --cold --limit 200 --no-default"
wait
