#!/usr/bin/env bash
# Every measurement of attacks beside their peers: all.sh PYTHON ROOT [strength|speed|memory ...]
# What benchmarks/results/ holds already is not measured again. Nothing else should run on the machine while speed is measured.
set -euo pipefail
python=$1 root=$2
shift 2
here=$(dirname "$0")
kermany="--model runs/kermany/model.safetensors --data kermany"
hardened="--model runs/kermany-resnet34-at/model.safetensors --data kermany"
skin="--model runs/ham10000-densenet121/model.safetensors --data ham10000-200"

run() { "$python" "$here/$1.py" --root "$root" "${@:2}"; }

for what in "${@:-strength speed memory}"; do
  for kind in $what; do
    case $kind in
      strength)
        run strength $kermany --images 64 --linf 2/255 4/255 --l2 0.5 --queries 500 --budgets 200
        run strength $hardened --images 64 --linf 4/255 8/255 --l2 1 --queries 0 --budgets 200 --norms linf l2
        run strength $skin --images 64 --linf 0.5/255 1/255 --l2 0.2 --queries 0 --budgets 200 --norms linf l2
        run strength $kermany --images 64 --linf --l2 --queries 0 --budgets 1000 --norms l2 linf
        ;;
      speed)
        # Three turns beside the two libraries that are the fastest, one beside the others.
        for libraries in "--libraries torchattacks adv-lib --repeats 3" "--repeats 1"; do
          run speed $kermany --images 64 --batch 32 $libraries
          run speed $hardened --images 64 --batch 32 --levels 4/255 --attacks pgd bim mim apgd $libraries
          run speed $skin --images 64 --batch 32 --levels 1/255 --attacks fgsm deepfool jsma $libraries
          for network in resnet34 densenet121; do
            run speed --untrained $network --side 64 --images 64 --queries 100 --steps 20 --attacks pgd square $libraries
            run speed --untrained $network --side 224 --images 16 --batch 16 --queries 50 --steps 10 --attacks pgd square $libraries
          done
        done
        ;;
      memory)
        for network in resnet34 densenet121; do
          run memory --untrained $network --side 64 --images 128
          run memory --untrained $network --side 224 --images 32 --batch 16
        done
        ;;
      *) echo "strength, speed or memory, not $kind" && exit 2 ;;
    esac
  done
done
