# One running Sigmacast: its folders, its user, its supervisor. Sourced by ops/run after ops/lib.sh.
#
#   DATA/sigmacast.toml       the configuration
#   DATA/log/                 one log a program, rotated
#   DATA/supervisor/          supervisord.conf, edges/edge-PORT.conf (one program file an edge), instance (key=value)
#   DATA/run -> RUN           the run folder with socket and pid file; short, since a socket's path must be
#
# Everything here is done as the user who owns the instance: root never writes where that user may.
# shellcheck shell=bash disable=SC2154

data=          # absolute
run_folder=    # absolute, short
owner=         # the user whose processes these are
bin=           # the folder of the programs
config=        # absolute

# as_owner COMMAND...: as the instance's user, with our environment.
as_owner() {
    if is_root && [[ $owner != root ]]; then
        setpriv --reuid "$owner" --regid "$(id -g "$owner")" --init-groups -- env HOME="$data" "$@"
    else
        "$@"
    fi
}

write_file() { as_owner tee "$1" >/dev/null; }

# ---- settings of the instance, for --status, --stop and --add-edge

instance_file() { echo "$data/supervisor/instance"; }

# instance_value KEY: what was remembered at the start. Read as text, never executed.
instance_value() {
    [[ -r $(instance_file) ]] || return 0
    sed -n "s/^$1=//p" "$(instance_file)" | head -n 1
}

edge_ports() {
    local file
    for file in "$data"/supervisor/edges/edge-*.conf; do
        [[ -e $file ]] || continue
        file=${file##*/edge-}
        echo "${file%.conf}"
    done | sort -n
}

# ---- ports

# socket_of_port PORT: the inode of the socket that listens there, or nothing. From /proc, since `ss` may be missing.
socket_of_port() {
    local hex
    hex=$(printf ':%04X' "$1")
    awk -v port="$hex" 'FNR > 1 && $4 == "0A" && substr($2, length($2) - 4) == port {print $10; exit}' \
        /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# The kernel's own name of a process is cut off after 15 characters.
name_of_process() {
    local comm word
    comm=$(cat "/proc/$1/comm" 2>/dev/null)
    while read -r word; do
        word=${word##*/}
        [[ $word == "$comm"* ]] && comm=$word && break
    done < <(tr 2>/dev/null '\0' '\n' <"/proc/$1/cmdline")
    echo "$comm"
}

# holder_of_port PORT: "supervisord (process 123)" as far as we may see it.
holder_of_port() {
    local socket link pid
    socket=$(socket_of_port "$1")
    link=$(find /proc/[0-9]*/fd -maxdepth 1 -lname "socket:\\[$socket\\]" -print -quit 2>/dev/null || true)
    pid=${link#/proc/}
    pid=${pid%%/*}
    if [[ -n $pid ]]; then
        echo "$(name_of_process "$pid") (process $pid)"
    else
        echo "another user's program"
    fi
}

port_is_busy() { [[ -n $(socket_of_port "$1") ]]; }

# check_port WHAT PORT
check_port() {
    port_is_busy "$2" || return 0
    die "port $2, which $1 needs, is in use by $(holder_of_port "$2")${3:+; $3}"
}

# ---- the run folder

prepare_run_folder() {
    local name base
    name=sigmacast-$(printf '%s' "$data" | sha256sum | cut -c1-10)
    if is_root && [[ -d /run && -w /run ]]; then
        base=/run
    elif [[ -n ${XDG_RUNTIME_DIR:-} && -O ${XDG_RUNTIME_DIR} && -w ${XDG_RUNTIME_DIR} && ${#XDG_RUNTIME_DIR} -lt 60 ]]; then
        base=$XDG_RUNTIME_DIR
    else
        base=/tmp
        name=$name-$(id -u "$owner")
    fi
    run_folder=$base/$name
    if ! mkdir -m 700 "$run_folder" 2>/dev/null; then
        # In /tmp anybody could have made it before us.
        [[ -d $run_folder && ! -L $run_folder && $(stat -c %U "$run_folder") =~ ^($owner|root)$ ]] ||
            die "the run folder $run_folder cannot be made, or belongs to somebody else"
    fi
    if is_root; then
        chown -h "$owner:" "$run_folder"
    fi
    as_owner ln -sfn "$run_folder" "$data/run"
}

# ---- supervisor

# In a supervisor file % begins an expansion.
escaped() { printf '%s' "${1//%/%%}"; }

# program_section NAME PRIORITY COMMAND...
program_section() {
    local name=$1 priority=$2 word line=
    shift 2
    for word in "$@"; do
        line+="\"$(escaped "$word")\" "
    done
    # A program that cannot start yet is tried again and again, each time a second later than before; it never is given
    # up, since what it waits for may come.
    cat <<END
[program:$name]
command=$line
directory=$(escaped "$data")
priority=$priority
autostart=true
autorestart=true
startsecs=1
startretries=1000000
stopsignal=TERM
stopwaitsecs=10
redirect_stderr=true
stdout_logfile=$(escaped "$data/log/$name.log")
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3

END
}

supervisor_config() {
    cat <<END
; Written by ops/run at each start.
[supervisord]
logfile=$(escaped "$data/log/supervisord.log")
logfile_maxbytes=10MB
logfile_backups=1
pidfile=$run_folder/supervisord.pid
childlogdir=$(escaped "$data/log")
directory=$(escaped "$data")
minfds=$(hard_file_limit)
identifier=sigmacast

[unix_http_server]
file=$run_folder/supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://$run_folder/supervisor.sock

[include]
files=$(escaped "$data/supervisor/edges")/*.conf

END
}

# supervisord ends when it cannot raise its limit this far; an edge needs one file a client.
hard_file_limit() {
    local limit
    limit=$(ulimit -Hn)
    [[ $limit == unlimited || $limit -gt 1048576 ]] && limit=1048576
    echo "$limit"
}

# write_edge PORT: one program file an edge, so that adding one leaves the others alone.
write_edge() {
    program_section "edge-$1" 40 "$bin/sigmacast-edge" --config "$config" --data-dir "$data" --port "$1" |
        write_file "$data/supervisor/edges/edge-$1.conf"
}

control() { as_owner /usr/bin/supervisorctl -c "$data/supervisor/supervisord.conf" "$@"; }

# The process id of this instance's supervisor, or nothing. A pid file alone proves nothing.
supervisor_pid() {
    local pid
    [[ -S $data/run/supervisor.sock ]] || return 0
    pid=$(control pid 2>/dev/null) || return 0
    [[ $pid =~ ^[0-9]+$ ]] && echo "$pid"
    return 0
}

# Processes of this instance, whoever started them: when supervisord itself was killed, its children live on.
instance_pids() {
    local folder words
    for folder in /proc/[0-9]*; do
        # Nothing is forked in this loop: a machine has hundreds of processes.
        { mapfile -d '' -t words <"$folder/cmdline"; } 2>/dev/null || continue
        if [[ ${words[*]} == *"/sigmacast-"*" --data-dir $data"?( *) ]]; then
            echo "${folder#/proc/}"
        fi
    done
}

# wait_until SECONDS COMMAND...: true as soon as the command is.
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

is_gone() { ! kill -0 "$1" 2>/dev/null; }
all_gone() { [[ -z $(instance_pids) ]]; }

# Ends all processes of the instance, by their ids, and removes the run folder. Programs get SIGTERM and ten seconds.
stop_instance() {
    local pid left
    pid=$(supervisor_pid)
    if [[ -n $pid ]]; then
        # The producer before the broker, so that its last events still become durable; all else at once, since a
        # shutdown alone stops one program a second.
        control stop producer >/dev/null 2>&1 || true
        control stop all >/dev/null 2>&1 || true
        control shutdown >/dev/null 2>&1 || kill -TERM "$pid" 2>/dev/null || true
        wait_until 60 is_gone "$pid" || warn "supervisor (process $pid) does not end"
    fi
    mapfile -t left < <(instance_pids)
    if ((${#left[@]})); then
        kill -TERM "${left[@]}" 2>/dev/null || true
        if ! wait_until 10 all_gone; then
            mapfile -t left < <(instance_pids)
            kill -KILL "${left[@]}" 2>/dev/null || true
        fi
    fi
    if [[ -L $data/run ]]; then
        as_owner rm -rf "$data/run/supervisor.sock" "$data/run/supervisord.pid"
        rmdir "$(readlink "$data/run")" 2>/dev/null || true
        as_owner rm -f "$data/run"
    fi
}

# ---- readiness

# --insecure: an edge on this machine, asked by its address, which no certificate names; nothing secret is sent.
http_get() { curl -fsS --insecure --noproxy '*' --max-time 2 "$1" 2>/dev/null; }
answers_ready() { http_get "$1" >/dev/null; }

edge_address() {
    local host
    host=$(instance_value edge_host)
    [[ $host == 0.0.0.0 || $host == :: || -z $host ]] && host=127.0.0.1
    echo "$host:$1"
}

# edge_url PORT: as the edges' configuration has it, with TLS or without.
edge_url() { echo "http$(tls_letter)://$(edge_address "$1")"; }
edge_websocket() { echo "ws$(tls_letter)://$(edge_address "$1")/ws"; }
tls_letter() { [[ -z $(instance_value tls_certificate) ]] || echo s; }

# What follows the first edge with `sigmacast tail`, one a line. With TLS it takes the certificate from the instance.
tail_arguments() {
    if [[ -z $(tls_letter) ]]; then
        edge_websocket "$(edge_ports | head -n 1)"
    else
        printf '%s\n' --data "$data"
    fi
}

# NAME URL of everything that tells whether it is ready, one a line.
readiness_urls() {
    local port
    echo "producer http://127.0.0.1:$(instance_value producer_admin)/readyz"
    echo "broker http://127.0.0.1:$(instance_value broker_admin)/readyz"
    for port in $(edge_ports); do
        echo "edge-$port $(edge_url "$port")/api/v1/ready"
    done
}

not_ready() {
    local name url
    while read -r name url; do
        answers_ready "$url" || echo "$name"
    done < <(readiness_urls)
}

everything_ready() { [[ -z $(not_ready) ]]; }

# Any answer counts: what matters is whether somebody speaks JSON-RPC there.
engine_answers() {
    curl -sS --noproxy '*' --max-time 3 -o /dev/null -H 'Content-Type: application/json' \
        -d '{"jsonrpc":"2.0","id":1,"method":"health.check","params":{}}' "$(instance_value engine_url)/rpc" 2>/dev/null
}
