#!/usr/bin/env bash
# The paper's settings in full, with all layers of MiniLM trained: what a reproduction is judged by.
#   bash train_scripts/paper_settings.sh            41 minutes a run on 2 idle cores, 20 runs; a stopped one goes on
#   PARTS="paper lambda0" SEEDS=1 bash train_scripts/paper_settings.sh
# PARTS, in the order in which they count:
#   paper       the losses of the paper, dropout off as the released code ran                SEEDS (1 2 3 4 5)
#   lambda0     without the sample-sample loss                                               SEEDS_FEW (1 2 3)
#   losses      CosineClassifier and ZOOTER in the same loop                                 SEEDS_PAIR (1 2)
#   upstream    the released code's seven behaviours                                         SEEDS_FEW
#   dropout     dropout on, as the paper's text reads (nearly twice the time)                SEEDS_PAIR
#   tuned-all   all layers on averaged targets, 200 steps (about 10 minutes a run)           SEEDS_FEW
# Adds the rows to results/tables.md; `python -m utils.report --compare FOLDERS` gives intervals and differences.
set -euo pipefail
cd "$(dirname "$0")/.."

PARTS="${PARTS:-paper lambda0 losses upstream dropout tuned-all}"
export SEEDS="${SEEDS:-1 2 3 4 5}"
SEEDS_FEW="${SEEDS_FEW:-1 2 3}"
SEEDS_PAIR="${SEEDS_PAIR:-1 2}"
RESULTS="${RESULTS:-results}"
export COLLECT=0 ENCODER="${ENCODER:-minilm}"
unset RUNS LABEL RECIPE FIDELITY
runs="runs/${ENCODER##*/}"

folders=()
train() { # train FOLDER FLAGS...: RECIPE with SEEDS, into FOLDER
  folders+=("$1")
  RUNS="$1" bash train_scripts/router_train_minilm.sh "${@:2}"
}

for part in $PARTS; do
  case "$part" in
    paper) RECIPE=paper train "${runs}_paper/paper" ;;
    lambda0) RECIPE=paper LABEL=paper-lambda0 SEEDS="$SEEDS_FEW" train "${runs}_paper-lambda0" --cluster_loss_weight 0 ;;
    losses)
      for loss in cosine_classifier zooter; do
        RECIPE=paper SEEDS="$SEEDS_PAIR" train "${runs}_paper-$loss" --loss "$loss"
      done
      ;;
    upstream) RECIPE=paper FIDELITY=upstream SEEDS="$SEEDS_FEW" train "${runs}_paper/upstream" ;;
    dropout) RECIPE=paper LABEL=paper-dropout SEEDS="$SEEDS_PAIR" train "${runs}_paper-dropout" --dropout 0.1 ;;
    tuned-all) RECIPE=tuned-all SEEDS="$SEEDS_FEW" train "${runs}_tuned-all/paper" ;;
    *)
      echo "error: PARTS names '$part'; it must be paper, lambda0, losses, upstream, dropout or tuned-all" >&2
      exit 2
      ;;
  esac
done
source train_scripts/env.sh
python -m utils.report "${folders[@]}" --results "$RESULTS"
