# What the scripts in ops/ share. To be sourced: it sets `project` and defines functions, and does nothing else.
# shellcheck shell=bash

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
program=$(basename "$0")

# One line an argument.
say() { printf '%s\n' "$@"; }
warn() { printf '%s: %s\n' "$program" "$*" >&2; }

# One clear sentence, and out.
die() {
    warn "$*"
    exit 1
}

# A wrong command line has a status of its own, as is usual.
usage_error() {
    warn "$* (see $program --help)"
    exit 2
}

# The comment that opens a script is its help text.
print_help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

is_root() { ((EUID == 0)); }
have() { command -v "$1" >/dev/null 2>&1; }

# 12 or 13; empty where this is no Debian that we know. A derivative keeps Debian's own file.
debian_major() {
    local version
    version=$(cat /etc/debian_version 2>/dev/null || true)
    case $version in
        12* | bookworm*) echo 12 ;;
        13* | trixie*) echo 13 ;;
    esac
}

# As many compilers as there are cores, but no more than memory allows: a Beast source takes about 1 GiB.
build_jobs() {
    local cores memory_gib
    cores=$(nproc)
    memory_gib=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
    ((memory_gib >= 1)) || memory_gib=1
    echo $((cores < memory_gib ? cores : memory_gib))
}

preset_exists() {
    case $1 in
        dev | release | asan | tsan | coverage) return 0 ;;
        *) return 1 ;;
    esac
}

# configure_preset NAME: a build folder that was configured under another path (a copied tree) is refused by CMake with a
# page of text; it is made anew here.
configure_preset() {
    local folder=$project/build/$1 home
    if [[ -f $folder/CMakeCache.txt ]]; then
        home=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$folder/CMakeCache.txt")
        [[ $home == "$project" ]] || rm -rf "$folder"
    fi
    (cd "$project" && cmake --preset "$1" -Wno-dev --log-level=NOTICE)
}

# build_preset NAME [TARGET...]
build_preset() {
    local preset=$1
    shift
    (cd "$project" && cmake --build "build/$preset" -j "$(build_jobs)" ${1:+--target "$@"})
}
