# The Python environment, sourced by every script from the repository root:
#
#   cd "$(dirname "$0")/.."
#   . train_scripts/env.sh
#
# It makes .venv once, installs requirements.txt into it whenever that file has changed, and activates it.
#   PYTHON=python3.12     the interpreter that makes .venv (default: python3; 3.11 or newer)
#   ROUTERDC_NO_VENV=1    use the current environment as it is
#   ROUTERDC_MIRROR=DIR   copy the released data from DIR instead of downloading it; '' is the network
#                         (default: ../shared/datasets if that folder exists)

routerdc_say() { echo "environment: $*" >&2; }

routerdc_stamp() {  # what .venv is for: these requirements, in this folder (a virtual environment cannot be moved)
  echo "$( (sha256sum requirements.txt 2>/dev/null || shasum -a 256 requirements.txt) | cut -d ' ' -f 1) $PWD"
}

routerdc_old_stamp() { cat .venv/routerdc-stamp 2>/dev/null || true; }

routerdc_ready() { [ -x .venv/bin/python ] && [ "$(routerdc_old_stamp)" = "$(routerdc_stamp)" ]; }

routerdc_usable() {  # finished once, in this folder, and its interpreter is still there
  [[ "$(routerdc_old_stamp)" = *" $PWD" ]] && .venv/bin/python -m pip --version >/dev/null 2>&1
}

routerdc_make() {
  local python="${PYTHON:-python3}" found
  if ! found="$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)"; then
    routerdc_say "error: cannot run '$python'. Install Python 3.11 or newer, or set PYTHON to its command"
    return 1
  fi
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    routerdc_say "error: '$python' is Python $found; 3.11 or newer is needed. Set it, such as PYTHON=python3.12"
    return 1
  fi
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    routerdc_say "error: '$python' ($found) cannot make virtual environments. Install its venv package" \
      "(Debian, Ubuntu: apt install python3-venv), or set ROUTERDC_NO_VENV=1 to use the current environment"
    return 1
  fi
  routerdc_say "making .venv with Python $found"
  "$python" -m venv --clear .venv
}

routerdc_install() {
  if routerdc_ready; then return 0; fi  # another script did it while this one waited
  if ! routerdc_usable; then routerdc_make || return 1; fi
  routerdc_say "installing requirements.txt into .venv (minutes the first time)"
  if ! .venv/bin/python -m pip install -qq --disable-pip-version-check -r requirements.txt; then
    routerdc_say "error: pip could not install requirements.txt, see above. Mend that and run the same command again"
    return 1
  fi
  routerdc_stamp > .venv/routerdc-stamp
}

routerdc_env() {
  if [ ! -f requirements.txt ]; then
    routerdc_say "error: no requirements.txt in $PWD. Source train_scripts/env.sh from the repository root"
    return 1
  fi
  if [ -z "${ROUTERDC_MIRROR+set}" ] && [ -d ../shared/datasets/split2_model7 ]; then
    ROUTERDC_MIRROR="$(cd ../shared/datasets && pwd)"
    export ROUTERDC_MIRROR
    routerdc_say "ROUTERDC_MIRROR=$ROUTERDC_MIRROR (the released data is copied from there)"
  fi
  if [ "${ROUTERDC_NO_VENV:-0}" = 1 ]; then
    if ! command -v python >/dev/null; then
      routerdc_say "error: ROUTERDC_NO_VENV=1, but there is no 'python' command. Activate an environment, or unset it"
      return 1
    fi
    routerdc_say "using $(command -v python) as it is (ROUTERDC_NO_VENV=1)"
    return 0
  fi
  if ! routerdc_ready; then
    mkdir -p .cache
    (
      if command -v flock >/dev/null && ! flock -n 9; then
        routerdc_say "waiting for another script that is preparing .venv"
        flock 9
      fi
      routerdc_install
    ) 9> .cache/venv.lock || return 1
  fi
  . .venv/bin/activate
  routerdc_say "using .venv"
}

routerdc_env
