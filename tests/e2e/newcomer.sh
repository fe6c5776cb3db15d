#!/usr/bin/env bash
# A newcomer's day: clone, `make serve` with a fresh HOME and a fresh environment, the curl lines of README and docs/examples.md, better
# pictures, Swagger UI, SIGTERM, a second start. Fails at the first thing that is not as the README says.
#   tests/e2e/newcomer.sh            (PYTHON=… chooses the interpreter, KEEP=1 keeps the clone, PORT=…,
#                                     VENV=… takes an environment instead of making a fresh one,
#                                     SCREENSHOTS=FOLDER keeps those of the page)
set -euo pipefail

source_tree="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
area="$(mktemp -d -t newcomer-XXXXXX)"
port="${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}"
url="http://127.0.0.1:$port"
make_pid=""
began=$SECONDS

say() { printf '[newcomer %4ds] %s\n' "$((SECONDS - began))" "$*"; }
fail() {
    say "FAILED: $*"
    [[ -f "$area/serve.log" ]] && tail -n 40 "$area/serve.log"
    exit 1
}
# make does not pass signals to its grandchildren in every version: the service is asked itself.
service_pid() { pgrep -P "$make_pid" -f 'm app$' | head -n 1 || true; }
cleanup() {
    if [[ -n "$make_pid" ]]; then
        service="$(service_pid)"
        [[ -n "$service" ]] && kill -KILL "$service" 2>/dev/null
        kill -KILL "$make_pid" 2>/dev/null
        wait "$make_pid" 2>/dev/null
    fi
    [[ -n "${KEEP:-}" ]] && say "kept $area" || rm -rf "$area"
}
trap 'set +e; cleanup' EXIT

start() { # seconds to wait at most
    local limit=$1 started=$SECONDS shown=$SECONDS
    make serve PORT="$port" >"$area/serve.log" 2>&1 </dev/null &
    make_pid=$!
    until curl -fsS -o /dev/null --max-time 5 "$url/readyz" 2>/dev/null; do
        kill -0 "$make_pid" 2>/dev/null || fail "make serve ended before it was ready"
        ((SECONDS - started < limit)) || fail "not ready after $limit s"
        if ((SECONDS - shown >= 15)); then
            shown=$SECONDS
            say "waiting: $(tail -n 1 "$area/serve.log" | cut -c 1-100)"
        fi
        sleep 0.5
    done
    say "ready after $((SECONDS - started)) s"
}

stop() {
    local service code=0
    service="$(service_pid)"
    [[ -n "$service" ]] || fail "no service below make"
    kill -TERM "$service"
    wait "$make_pid" || code=$?
    make_pid=""
    ((code == 0)) || fail "SIGTERM: make serve ended with $code"
    ! curl -fsS -o /dev/null --max-time 2 "$url/livez" 2>/dev/null || fail "still answering after SIGTERM"
    say "SIGTERM: exit code 0"
}

say "cloning HEAD of $source_tree"
git clone --quiet --no-local --depth 1 "file://$source_tree" "$area/clone"
mkdir "$area/home"
export HOME="$area/home" XDG_CACHE_HOME="$area/home/.cache"
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME
cd "$area/clone"
export MAKEFLAGS="" MFLAGS="" MAKELEVEL=""

[[ "$(awk '/^```sh/ {inside = 1; next} inside' README.md | head -n 2 | cut -d ' ' -f 1,2 | tr '\n' ' ')" == "make serve make test " ]] ||
    fail "the README does not begin with make serve and make test"

start 1800

# The first picture, in the browser: two commands so far, `git clone` and `make serve`.
if command -v chromium chromium-browser google-chrome >/dev/null && command -v chromedriver >/dev/null; then
    mkdir "$area/page"
    python3 -m tests.e2e.newcomer_page "$url/" docs/images/astronaut-before.png "$area/page" || fail "the page"
    "${VENV:-.venv}/bin/python" - "$area/page" <<'PY' || fail "the page did not make the picture better"
import sys

import cv2
import numpy as np

clean, before, after = (
    cv2.imread(path).astype(float)
    for path in ("docs/images/astronaut-clean.png", "docs/images/astronaut-before.png", f"{sys.argv[1]}/astronaut-before-denoise.png")
)
figures = [10 * np.log10(255**2 / np.mean((one - clean) ** 2)) for one in (before, after)]
print("the page: {:.2f} dB before, {:.2f} dB after".format(*figures))
assert figures[1] > figures[0] + 5
PY
    say "clone, page open, first picture better: $((SECONDS - began)) s with two commands"
    [[ -n "${SCREENSHOTS:-}" ]] && cp "$area"/page/page-*.png "$SCREENSHOTS"
else
    say "no chromium and chromedriver here: the page is fetched, not used"
    curl -fsS -H 'Accept: text/html' "$url/" | grep -q 'page/main.js' || fail "/ is not the page"
fi

# Every curl line of the README and of its page of examples, as it stands there, against our port.
mapfile -t lines < <(awk '/^```sh/ {inside = 1; next} /^```/ {inside = 0} inside && /^(curl |job=)/ && !seen[$0]++' \
    README.md docs/examples.md)
((${#lines[@]} > 10)) || fail "README.md and docs/examples.md have hardly a curl line"
for line in "${lines[@]}"; do
    say "$line"
    bash -euc "${line//http:\/\/127.0.0.1:8000/$url} -sS" || fail "this line does not work"
done

"${VENV:-.venv}/bin/python" - <<'PY' || fail "the pictures did not get better"
import json

import cv2
import numpy as np


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


for name, result in (("astronaut", "denoised.png"), ("coffee", "enlarged.png"), ("scratched", "repaired.png")):
    before, clean, after = (cv2.imread(p) for p in (f"docs/images/{name}-before.png", f"docs/images/{name}-clean.png", result))
    assert after.shape == clean.shape, (after.shape, clean.shape)
    before = cv2.resize(before, clean.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    print(f"{name}: {psnr(before, clean):.2f} dB before, {psnr(after, clean):.2f} dB after")
    assert psnr(after, clean) > psnr(before, clean) + 0.5, name

cup, cut = cv2.imread("docs/images/coffee-clean.png"), cv2.imread("cutout.png", cv2.IMREAD_UNCHANGED)
portrait = cv2.imread("docs/images/portrait.jpg")
table = {one["name"]: one for one in json.load(open("table.json"))["classes"]}
opaque = cut[..., 3] == 255
print(f"portrait: {table['person']['fraction']:.0%} of it is a person; cup: {opaque.mean():.0%} opaque in the cutout")
assert cut.shape == (*cup.shape[:2], 4)
assert 0.2 < table["person"]["fraction"] < 0.8
assert 0.1 < opaque.mean() < 0.9
assert np.abs(cut[..., :3][opaque].astype(int) - cup[opaque]).mean() < 2
assert cv2.imread("placed.jpg").shape == portrait.shape

read = [open(name, "rb").read() for name in ("enlarged.png", "job.png", "denoised.png", "once.png", "twice.png", "waited.png")]
assert read[0] == read[1], "a job's answer is not the direct one"
assert len({*read[2:]}) == 1, "a repeat is not the same"

cat, painted, own_style = (cv2.imread(p).astype(float) for p in ("docs/images/chelsea-clean.png", "painted.png", "own-style.png"))
assert painted.shape == own_style.shape == cat.shape
assert np.abs(painted - cat).mean() > 10
shift = (own_style - cat)[(own_style > 8).all(axis=2) & (own_style < 247).all(axis=2)]
assert np.abs(shift - shift.mean(axis=1, keepdims=True)).max() < 3, "colors are not the photograph's own"
PY

browser="$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)"
if [[ -n "$browser" ]]; then
    "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$area/browser" \
        --window-size=1280,1600 --virtual-time-budget=15000 --screenshot="$area/docs.png" "$url/docs" >"$area/browser.log" 2>&1 ||
        fail "the browser could not open /docs"
    "${VENV:-.venv}/bin/python" - "$area/docs.png" <<'PY' || fail "Swagger UI's screenshot is empty"
import sys

import cv2

shot = cv2.imread(sys.argv[1])
# A page that failed to load is white with a line of text: few distinct colors, little that differs from the corner.
drawn = (abs(shot.astype(int) - shot[-1, -1]).sum(axis=2) > 30).mean()
print(f"Swagger UI: {shot.shape[1]}x{shot.shape[0]}, {drawn:.1%} of it drawn")
assert drawn > 0.03
PY
    [[ -n "${SCREENSHOT:-}" ]] && cp "$area/docs.png" "$SCREENSHOT"
else
    say "no headless browser here: Swagger UI is fetched, not looked at"
    curl -fsS "$url/docs" | grep -qi swagger || fail "/docs is not Swagger UI"
fi

stop
second=$SECONDS
start 120
((SECONDS - second < 90)) || fail "the second start took $((SECONDS - second)) s"
grep -q 'installing' "$area/serve.log" && fail "the second start installed again"
stop
say "everything is as the README says"
