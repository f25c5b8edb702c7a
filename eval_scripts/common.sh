# What score.sh and bigcode.sh share: the paper's LLMs, the list MODELS, errors, folders, commands in print. Sourced.

MODELS_OF_THE_PAPER=(
  mistralai/Mistral-7B-v0.1
  meta-math/MetaMath-Mistral-7B
  itpossible/Chinese-Mistral-7B-v0.1
  HuggingFaceH4/zephyr-7b-beta
  cognitivecomputations/dolphin-2.6-mistral-7b
  meta-llama/Meta-Llama-3-8B
  cognitivecomputations/dolphin-2.9-llama3-8b
)

fail() { echo "error: $*" >&2; exit 2; }

read_models() {  # the words of MODELS, in which quotes work as on a command line, into the array `models`
  local words word
  words="$(xargs -n 1 printf '%s\n' <<< "$MODELS" 2>/dev/null)" || fail "MODELS is '$MODELS'; a quote is not closed"
  models=()
  while IFS= read -r word; do models+=("$word"); done <<< "$words"
}

hold() {  # FOLDER [-w]: an empty folder that no other run of these scripts gets, until `release` or this process ends
  # False if another run has it; -w waits for that one. The lock is on a file beside the folder, opened for writing, as
  # shared file systems (NFS, Lustre) want it. A process that is killed lets go of it, once the harness that it started
  # has ended, too. LOCK=none takes no lock.
  local lock="$1.lock" patience=(-n) code=0
  if [[ "${2:-}" == -w ]]; then patience=(); fi
  if [[ "${LOCK:-flock}" != none ]]; then
    command -v flock > /dev/null || fail "there is no flock here; set LOCK=none if every cell is started once alone"
    mkdir -p "$(dirname "$1")"
    while true; do
      exec 9<> "$lock"
      flock ${patience[@]+"${patience[@]}"} -E 75 9 || code=$?
      if [[ "$code" == 75 ]]; then return 1; fi
      [[ "$code" == 0 ]] \
        || fail "$lock: its file system takes no locks (flock exit code $code); choose another OUT, or set LOCK=none" \
          "if every cell is started once alone, as by a job array"
      if [[ "$lock" -ef /dev/fd/9 ]]; then break; fi  # who held it has removed it meanwhile
    done
  fi
  mkdir -p "$1"
  find "$1" -mindepth 1 -delete
}

release() {  # FOLDER: let others have it
  if [[ "${LOCK:-flock}" != none ]]; then
    rm -f "$1.lock"
    exec 9>&-
  fi
}

shown() {  # a command as one would type it
  local word words=()
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:=,+@%-]+$ ]]; then words+=("$word"); else words+=("$(printf '%q' "$word")"); fi
  done
  echo "${words[*]}"
}
