#!/usr/bin/env bash
# Score LLMs on a Slurm cluster: an array with one job for each cell (one LLM, one group of tasks) of score.sh.
#   sbatch eval_scripts/score_slurm.sh                      all 84 cells of the paper, from the root of the repository
#   sbatch --array=17,30-41 eval_scripts/score_slurm.sh     some cells; bash eval_scripts/score.sh --list numbers them
#   MODELS="org/a org/b" sbatch --array=1-24 eval_scripts/score_slurm.sh     one's own: LLMs times groups are the cells
#
# We have no cluster: this was never submitted. Tested are its body, with a stand-in for srun, and the numbers.
#
# Change the directives below to the cluster's own: partition, account, name of its GPUs, memory, time. The checkout,
# OUT, the models (HF_HOME) and the environment must lie where every node sees them, and MODELS and TASKS must be the
# same for all submissions, since they number the cells. Compute nodes without a network: download the models and the
# data sets before, and set HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1. Settings of score.sh reach the jobs through the
# environment (sbatch passes it on), further flags stand behind the script's name.
#
# A cell that was stopped, by its time limit too, is open again: the same sbatch does it, and skips what is done. A job
# that is preempted is queued again. If the file system has no locks, score.sh says so; an array starts every cell
# once, so LOCK=none is safe as long as no second array with the same cells runs beside it.
#
#   TP=2        needs --gres=gpu:2
#   TP=1 DP=4   needs --gres=gpu:4: four copies of the LLM by vllm and ray. Groups that sample run one copy, so submit
#               their cells with DP=1 and one GPU in an array of their own
#SBATCH --job-name=routerdc-score
#SBATCH --array=1-84%16
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"  # Slurm runs a copy of this file from a folder of its own
if [[ ! -f eval_scripts/score.sh ]]; then
  echo "error: no eval_scripts/score.sh in $PWD; call sbatch from the root of the repository" >&2
  exit 2
fi
if [[ -z "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  echo "error: SLURM_ARRAY_TASK_ID is not set; submit an array: sbatch --array=1-84 eval_scripts/score_slurm.sh" >&2
  exit 2
fi
export CELL="$SLURM_ARRAY_TASK_ID"
exec srun --ntasks=1 bash eval_scripts/score.sh "$@"
