# What .ci/run and .ci/full share. To be sourced, after ops/lib.sh: it goes to the top of the tree and defines functions.
# shellcheck shell=bash

exec </dev/null
export CI=true
# shellcheck disable=SC2154
cd "$project" || exit

failed=()

# step NAME COMMAND...: says what runs and how long it took, so that a slow step is seen.
step() {
    local name=$1 begin=$SECONDS
    shift
    say "== $name"
    if "$@"; then
        say "== $name: ok, $((SECONDS - begin)) s"
    else
        say "== $name: FAILED, $((SECONDS - begin)) s"
        failed+=("$name")
    fi
}

# Names everything that failed; the exit status is 1 then.
finish() {
    ((${#failed[@]} == 0)) || die "failed: $(printf '%s; ' "${failed[@]}")after $SECONDS s"
    say "== all checks passed, $SECONDS s"
}
