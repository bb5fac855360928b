#!/usr/bin/env bash
# Everything that the first half hour with a GPU should measure, most wanted
# first, in slices:
#
#   bash experiments/gpu.sh DIR [MINUTES]
#
# runs for up to MINUTES (8), keeps in DIR what is done, and goes on there when
# it is called again. What a measurement printed is in DIR/NAME.txt, and all of
# it, with device and versions, in DIR/gpu.md. $PYTHON is the interpreter
# (python3), $DATA the folder of CIFAR-10 for the paper's recipe, which is left
# out without one. Needs PyTorch for the peers; without it they are left out.
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: bash experiments/gpu.sh DIR [MINUTES]" >&2; exit 2; }
mkdir -p "$1" || exit 2
out="$(cd "$1" && pwd)"
end=$(($(date +%s) + 60 * ${2:-8}))
python="${PYTHON:-python3}"
[[ "$python" != */* || "$python" == /* ]] || python="$PWD/$python"
[ -z "${DATA:-}" ] || DATA="$(cd "$DATA" && pwd)" || exit 2
cd "$(dirname "$0")/.."
# Every time, for the machine may be another one.
"$python" -m experiments.gaps --facts > "$out/facts.txt" || exit 2
left() { echo $((end - $(date +%s))); }

# measure NAME SECONDS COMMAND…: unless it is done, or SECONDS are more than
# what is left. What failed, or took five times as long, is tried again when all
# else was.
measure() {
  local name="$1" seconds="$2" limit
  shift 2
  names+=("$name")
  [ -e "$out/$name.txt" ] && return
  [ "$round" = 1 ] && [ -e "$out/$name.part" ] && return
  [ "$round" = 2 ] && [[ " $tried " == *" $name "* ]] && return
  limit=$(($(left) < 5 * seconds ? $(left) : 5 * seconds))
  [ "$limit" -ge "$seconds" ] || return
  tried="$tried $name"
  echo "$name: $*"
  # In the foreground, so that a run that saves is asked to stop but once.
  { echo "\$ $*"; timeout --foreground "$limit" "$@" 2>&1; } >> "$out/$name.part"
  if [ $? -eq 0 ]; then
    mv "$out/$name.part" "$out/$name.txt"
  else
    tail -n 3 "$out/$name.part"
  fi
}

bench=("$python" -m experiments.benchmark)
resnet=("${bench[@]}" --cases=resnet --batches=32)
everything() {
  names=()
  measure resnet-bf16 40 "${resnet[@]}" --precision=bf16 --peers=
  measure gaps 40 "$python" -m experiments.gaps --case=resnet --batch=32
  measure resnet-without-graphs 40 env XLA_FLAGS=--xla_gpu_enable_command_buffer= "${resnet[@]}" --precision=bf16 --peers=
  measure members-4 40 "${resnet[@]}" --precision=bf16 --peers= --members=4
  measure members-8 40 "${resnet[@]}" --precision=bf16 --peers= --members=8
  measure resnet-fp16 40 "${resnet[@]}" --precision=fp16 --peers=
  # On a GPU float32 products are TF32, for both sides.
  measure resnet-fp32-tf32 40 "${resnet[@]}" --precision=fp32 --peers=
  for case in vdcnn resnext stargan; do
    measure "$case-bf16" 60 "${bench[@]}" --cases="$case" --precision=bf16 --peers=
  done
  # Its epochs' lines tell the steps that were skipped.
  measure fp16-skipped 60 "$python" -m experiments.cifar --config=experiments/configs/demo.py --workdir="$out/fp16" --config.precision=fp16
  if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    measure resnet-beside-eager 60 "${resnet[@]}" --precision=bf16 --peers=eager
    measure resnet-beside-best 90 "${resnet[@]}" --precision=bf16 --peers=best
    measure resnet-128-beside-pytorch 90 "${bench[@]}" --cases=resnet --batches=128 --precision=bf16
    measure resnet-fp32-beside-pytorch 90 "${resnet[@]}" --precision=fp32
    for case in vdcnn resnext stargan; do
      measure "$case-beside-pytorch" 90 "${bench[@]}" --cases="$case" --precision=bf16
    done
    measure inference 90 "${bench[@]}" --inference --cases=resnet --precision=bf16
  else
    echo 'PyTorch with CUDA is not installed: no peers'
  fi
}
tried=
for round in 1 2; do everything; done
if [ -n "${DATA:-}" ]; then
  names+=(recipe)
  # As far as the time goes; the same command goes on there.
  seconds=$(($(left) - 20))
  if [ ! -e "$out/recipe.txt" ] && [ "$seconds" -gt 30 ]; then
    timeout --foreground "$seconds" "$python" -m experiments.cifar --config=experiments/configs/resnet.py --workdir="$out/recipe" --config.data_dir="$DATA" --config.precision=bf16 --config.steps_per_call=64 >> "$out/recipe.part" 2>&1 && mv "$out/recipe.part" "$out/recipe.txt"
  fi
fi

waiting=
{
  echo '# Measured on a GPU'
  for name in facts "${names[@]}"; do
    text="$out/$name.txt"
    [ -e "$text" ] || { waiting="$waiting $name"; text="$out/$name.part"; }
    [ -e "$text" ] || continue
    printf '\n## %s%s\n\n```\n' "$name" "$([ "${text##*.}" = txt ] || echo ' (not finished)')"
    cat "$text"
    echo '```'
  done
} > "$out/gpu.md"
echo "$out/gpu.md"
if [ -n "$waiting" ]; then
  echo "not done yet:$waiting; run the same command again"
  exit 3
fi
