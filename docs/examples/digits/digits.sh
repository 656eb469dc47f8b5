#!/usr/bin/env bash
# The figures that the pages give of spoken digits, from the audio to the table and the picture of the report.
#
#     docs/examples/digits/digits.sh CORPUS [EXP]
#
# CORPUS holds LibriSpeech/{train-clean-100,dev-clean,test-clean}, lexicon.txt (lines WORD<tab>PHONES), VoxCeleb1/dev/wav
# and iden_split.txt. EXP (default: exp) gets everything that is made. What was cut short goes on when it is run again.
# SHORTER=100 divides all numbers of steps by 100: a look at whether everything works, without the figures.
set -euo pipefail
corpus=${1:?usage: digits.sh CORPUS [EXP]}
exp=${2:-exp}
shorter=${SHORTER:-1}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

run() {
    echo "\$ $*"
    "$@"
}

steps() { # NUMBER: of steps, or of those of a shorter run
    echo $(($1 / shorter > 0 ? $1 / shorter : 1))
}

mkdir -p "$exp"
sed -e "s/total_steps: 1500/total_steps: $(steps 1500)/" -e "s/warmup_steps: 100/warmup_steps: $((100 / shorter))/" \
    "$here/runner.yaml" >"$exp/runner.yaml"

# Log-Mel frames and cluster labels, of both splits by the statistics and the clusters of the first.
run melhubert prepare --audio "$corpus/LibriSpeech" --subset train-clean-100 --clusters 100 --out "$exp/data/train"
run melhubert prepare --audio "$corpus/LibriSpeech" --subset dev-clean --kmeans "$exp/data/train" --out "$exp/data/dev"

# The model, trained and with its initial weights.
run melhubert pretrain -f 20 -g "$here/model.yaml" -c "$exp/runner.yaml" --data "$exp/data/train" \
    --valid "$exp/data/dev" -n "$exp/stage1" --resume
run melhubert pretrain -f 20 -g "$here/model.yaml" -c "$here/untrained.yaml" --data "$exp/data/train" \
    -n "$exp/untrained" --resume

# Three tasks with each of three upstreams. On so little, a step takes one batch.
each_batch=config.runner.gradient_accumulate_steps=1
model=config.downstream_expert.modelrc
small="$model.RNNs.dim=[128,128],,$model.project_dim=128,,config.downstream_expert.datarc.batch_size=16"
for name in fbank untrained stage1; do
    upstream=(-u fbank)
    if [ "$name" != fbank ]; then
        upstream=(-u melhubert_local -k "$exp/$name/last.ckpt")
    fi
    run melhubert superb pr --librispeech "$corpus/LibriSpeech" --lexicon "$corpus/lexicon.txt" "${upstream[@]}" \
        -p "$exp/superb/$name/pr" --steps "$(steps 400)" --lr 5e-3 -o "$each_batch"
    run melhubert superb sid --voxceleb "$corpus/VoxCeleb1" --split-file "$corpus/iden_split.txt" "${upstream[@]}" \
        -p "$exp/superb/$name/sid" --steps "$(steps 150)" --lr 1e-3 -o "$each_batch"
    run melhubert superb asr --librispeech "$corpus/LibriSpeech" "${upstream[@]}" \
        -p "$exp/superb/$name/asr" --steps "$(steps 300)" --lr 3e-3 -o "$small"
done

# What was found, and what the trained models say of the test split.
stage1=$exp/superb/stage1
run melhubert superb predict "$stage1/sid" "$corpus/LibriSpeech/test-clean" --top 2 --out "$exp/speakers.txt"
run melhubert superb predict "$stage1/pr" "$corpus/LibriSpeech/test-clean" --out "$exp/phones.txt"
run melhubert superb predict "$stage1/asr" "$corpus/LibriSpeech/test-clean" --out "$exp/words.txt"
run melhubert superb report "$exp/superb" --out "$exp/report"
