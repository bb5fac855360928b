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
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
peers=()
"$python" -c 'import torch' 2>/dev/null || peers=(--peers=)
left() { echo $((end - $(date +%s))); }

# measure NAME SECONDS COMMAND…: unless it is done, or is longer than what is
# left. One that failed is tried again the next time.
measure() {
  local name="$1" seconds="$2"
  shift 2
  [ -e "$out/$name.txt" ] && return
  if [ "$(left)" -lt "$seconds" ]; then
    waiting="${waiting:-} $name"
    return
  fi
  echo "$name: $*"
  { echo "\$ $*"; timeout "$(left)" "$@" 2>&1; } > "$out/$name.part"
  if [ $? -eq 0 ]; then
    mv "$out/$name.part" "$out/$name.txt"
  else
    waiting="${waiting:-} $name"
    tail -n 3 "$out/$name.part"
  fi
}

bench=("$python" -m experiments.benchmark)
measure facts 10 "$python" -m experiments.gaps --facts
measure resnet-bf16 60 "${bench[@]}" --cases=resnet --batches=32,128 --precision=bf16 "${peers[@]}" --json="$out/resnet-bf16.json"
measure gaps 40 "$python" -m experiments.gaps --case=resnet --batch=32
measure resnet-without-graphs 40 env XLA_FLAGS=--xla_gpu_enable_command_buffer= "${bench[@]}" --cases=resnet --batches=32 --precision=bf16 --peers=
measure members-4 40 "${bench[@]}" --cases=resnet --batches=32 --precision=bf16 --peers= --members=4
measure members-8 40 "${bench[@]}" --cases=resnet --batches=32 --precision=bf16 --peers= --members=8
measure resnet-fp16 60 "${bench[@]}" --cases=resnet --batches=32 --precision=fp16 --peers=
# On a GPU float32 products are TF32, for both sides.
measure resnet-fp32-tf32 60 "${bench[@]}" --cases=resnet --batches=32,128 --precision=fp32 "${peers[@]}"
measure vdcnn-bf16 60 "${bench[@]}" --cases=vdcnn --precision=bf16 "${peers[@]}"
measure resnext-bf16 90 "${bench[@]}" --cases=resnext --precision=bf16 "${peers[@]}"
measure stargan-bf16 90 "${bench[@]}" --cases=stargan --precision=bf16 "${peers[@]}"
measure inference 60 "${bench[@]}" --inference --cases=resnet --precision=bf16 "${peers[@]}"
# Its epochs' lines tell the steps that were skipped.
measure fp16-skipped 60 "$python" -m experiments.cifar --config=experiments/configs/demo.py --workdir="$out/fp16" --config.precision=fp16
if [ -n "${DATA:-}" ] && [ ! -e "$out/recipe.txt" ]; then
  # As far as the time goes; the same command goes on there.
  seconds=$(($(left) - 20))
  if [ "$seconds" -gt 30 ]; then
    timeout -s TERM "$seconds" "$python" -m experiments.cifar --config=experiments/configs/resnet.py --workdir="$out/recipe" --config.data_dir="$DATA" --config.precision=bf16 --config.steps_per_call=64 >> "$out/recipe.part" 2>&1 && mv "$out/recipe.part" "$out/recipe.txt"
  fi
  [ -e "$out/recipe.txt" ] || waiting="${waiting:-} recipe"
fi

{
  echo '# Measured on a GPU'
  for name in facts resnet-bf16 gaps resnet-without-graphs members-4 members-8 resnet-fp16 resnet-fp32-tf32 vdcnn-bf16 resnext-bf16 stargan-bf16 inference fp16-skipped recipe; do
    text="$out/$name.txt"
    [ -e "$text" ] || text="$out/$name.part"
    [ -e "$text" ] || continue
    printf '\n## %s%s\n\n```\n' "$name" "$([ "${text##*.}" = txt ] || echo ' (not finished)')"
    cat "$text"
    echo '```'
  done
} > "$out/gpu.md"
echo "$out/gpu.md"
if [ -n "${waiting:-}" ]; then
  echo "not done yet:$waiting; run the same command again"
  exit 3
fi
