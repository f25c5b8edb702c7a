# Sourced by the scripts that train: an argument of train_router_mdeberta.py by a variable of its name in capitals, such as
# TRAINING_STEPS=200 LEARNING_RATE=1e-4 H=5. `overrides` gets them as arguments; they come before "$@", which has the last word.
overrides=()
for name in BATCH_SIZE TRAINING_STEPS EVAL_STEPS LEARNING_RATE LLM_LEARNING_RATE WEIGHT_DECAY GRADIENT_ACCUMULATION TOP_K LAST_K H TIES NEGATIVE_BELOW \
  TEMPERATURE CLUSTER_LOSS_WEIGHT SAMPLE_LOSS_WEIGHT SIMILARITY_FUNCTION TARGETS TARGET_SHRINKAGE TARGET_GROUPS \
  TARGET_POOLING TRAINING_SAMPLES_PER_DATASET VALIDATION_FRACTION SELECTION POOLING DROPOUT MAX_LENGTH; do
  if [[ -n "${!name:-}" ]]; then
    flag="$(tr '[:upper:]' '[:lower:]' <<< "$name")"
    overrides+=("--${flag/#h/H}" "${!name}")
  fi
done
