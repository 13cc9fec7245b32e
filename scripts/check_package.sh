#!/usr/bin/env bash
# Build the sdist, and the wheel from it; use the wheel in an empty environment, first bare, then with each extra alone.
# Usage: scripts/check_package.sh [EXTRA ...], as "cli train"; without one, the core and cli.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
place=$root/build/package
export PIP_CONSTRAINT=$root/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
unset PYTHONPATH
rm -rf "$place"
mkdir -p "$place/empty"
log() { echo "package: $*"; }
fail() { echo "package: $*" >&2; exit 1; }
make_env() { "${PYTHON:-python3}" -m venv --without-pip "$place/$1"; } # the pip of tools installs into all of them
install() {
  "$place/tools/bin/python" -m pip --python "$place/$1/bin/python" --quiet install "${@:2}" 2>"$place/pip.log" ||
    { cat "$place/pip.log"; exit 1; }
}
# a sentence with what to install, and no traceback
refuses() {
  local status=0 cure=$1
  shift
  "$@" >"$place/out" 2>&1 || status=$?
  [[ $status -ne 0 ]] || fail "$* went through without $cure"
  ! grep -q Traceback "$place/out" || { cat "$place/out"; fail "$*: a traceback where a sentence is expected"; }
  grep -q -- "$cure" "$place/out" || { cat "$place/out"; fail "$*: does not say '$cure'"; }
}

log "building the sdist, and the wheel from it"
"${PYTHON:-python3}" -m venv "$place/tools"
install tools "hatchling>=1.27"
"$place/tools/bin/python" -m hatchling build -t sdist -d "$place/dist" >/dev/null 2>&1
"$place/tools/bin/python" -m pip --quiet wheel --no-deps --no-build-isolation -w "$place/dist" "$place"/dist/*.tar.gz 2>/dev/null
wheel=$(echo "$place"/dist/*.whl)

see() { # the packages of one environment from another
  local code='import sysconfig; print(sysconfig.get_path("purelib"))'
  echo "import site; site.addsitedir('$("$1/bin/python" -c "$code")')" >"$("$place/$2/bin/python" -c "$code")/below.pth"
}
demo() {
  "$place/core/bin/sftloss" --version | grep -qF "$(basename "$wheel" | cut -d- -f2)" || fail "another version"
  OMP_NUM_THREADS=1 "$place/core/bin/sftloss" demo --output demo >/dev/null 2>"$place/demo.log" || { cat "$place/demo.log"; exit 1; }
  [[ -s demo/report.html ]] || fail "the demo wrote no report"
}

log "the core alone: $(basename "$wheel")"
make_env core
install core "$wheel"
cd "$place/empty"
"$place/core/bin/python" - <<'PY'
import torch, sftloss
from sftloss import Head, objective, weighted_loss
assert "site-packages" in sftloss.__file__, sftloss.__file__
hidden, head = torch.randn(4, 8, requires_grad=True), Head(torch.randn(50, 8))
loss, _ = weighted_loss(hidden, head, torch.arange(4), torch.full((4,), 0.25), objective("focal(gamma=2)"))
loss.backward()
PY
refuses 'pip install "sftloss\[cli\]"' "$place/core/bin/sftloss" demo

for extra in "${@:-cli}"; do
  log "the extra $extra"
  env=core
  if [[ $extra != cli ]]; then # over the core, so that torch is installed once
    make_env "$extra"
    see "$place/core" "$extra"
    env=$extra
  fi
  install "$env" "$wheel[$extra]"
  case $extra in
    cli)
      demo
      refuses 'sftloss\[train\]' "$place/core/bin/sftloss" train --model demo --data demo --max-steps 1 --output run
      refuses 'pip install gguf' "$place/core/bin/sftloss" analyze --model smollm2 --data demo
      ;;
    train)
      "$place/train/bin/python" -c '
from sftloss.finetune import Lora, Recipe, fine_tune
print(fine_tune(Recipe(model="demo", data="demo", max_steps=1, max_examples=20, lora=Lora(r=2), device="cpu")).steps)'
      ;;
    real) "$place/real/bin/python" -c 'import gguf' ;;
    torchjd) "$place/torchjd/bin/python" -c 'import torchjd.aggregation' ;;
  esac
done
log "all of it works"
