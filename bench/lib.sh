# What the benchmarks share; sourced by them. Everything runs on 127.0.0.1 on free ports, with data
# below target/bench, and ends with the script that sources this.

CORES=$(nproc)
TICKS=$(getconf CLK_TCK)
HOME_FOLDER=$PWD/target/bench
RESULTS=$PWD/bench/results
mkdir -p "$HOME_FOLDER" "$RESULTS"
WORK=$(mktemp -d "$HOME_FOLDER/run.XXXXXX")
PIDS=()
# What else is removed at the end.
FOLDERS=()
declare -A URL PID IDLE
PATH="$PATH:/usr/sbin"

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'bench: %s\n' "$*" >&2; exit 1; }

cleanup() {
  local status=$? pid
  trap - EXIT INT TERM
  for pid in "${PIDS[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  for pid in "${PIDS[@]}"; do wait "$pid" 2>/dev/null; done
  rm -rf "$WORK" "${FOLDERS[@]}"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

install_missing() {
  local program package missing=() as_root=()
  while read -r program package; do
    command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing+=("$package")
  done <<<"nginx nginx-light
wrk wrk
curl curl
python3 python3-venv"
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "install ${missing[*]} and try again"
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || fail "run 'sudo apt-get install ${missing[*]}', or run this as root"
    as_root=(sudo -n)
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq || fail "apt-get update failed"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 || fail "installing ${missing[*]} failed"
}

# Prints a port on 127.0.0.1 that nobody listens on.
free_port() {
  local port
  for _ in $(seq 50); do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  fail "found no free port"
}

# start TARGET LOG COMMAND…: runs the command, remembers its process.
start() {
  local target=$1 log=$2
  shift 2
  "$@" >"$WORK/$log" 2>&1 &
  PID[$target]=$!
  PIDS+=("$!")
}

# await TARGET LOG URL: until the URL answers.
await() {
  for _ in $(seq 3000); do
    kill -0 "${PID[$1]}" 2>/dev/null || break
    curl -s -o /dev/null --max-time 2 "$3" && return
    sleep 0.01
  done
  tail -20 "$WORK/$2" >&2
  fail "$1 did not start"
}

nginx_config() {
  mkdir -p "$WORK/nginx"
  cat <<CONFIG
user $(id -un);
daemon off;
worker_processes auto;
pid $WORK/nginx/$1.pid;
error_log $WORK/nginx/$1.log;
events { worker_connections 4096; }
http {
  access_log off;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  client_body_temp_path $WORK/nginx/body;
  proxy_temp_path $WORK/nginx/proxy;
  fastcgi_temp_path $WORK/nginx/fastcgi;
  uwsgi_temp_path $WORK/nginx/uwsgi;
  scgi_temp_path $WORK/nginx/scgi;
$2
}
CONFIG
}

start_upstream() {
  local port
  port=$(free_port) || exit 1
  UPSTREAM="127.0.0.1:$port"
  nginx_config upstream "
  server {
    listen $UPSTREAM backlog=4096;
    default_type application/json;
    location /orders {
      if (\$http_x_upstream_key != '$UPSTREAM_KEY') { return 401; }
      return 200 '$(cat bench/answer.json)';
    }
  }" >"$WORK/upstream.conf"
  start direct upstream.log nginx -c "$WORK/upstream.conf"
  await direct upstream.log "http://$UPSTREAM/orders"
  URL[direct]="http://$UPSTREAM/orders"
}

# Prints a process and all below it.
family() {
  local child
  echo "$1"
  for child in $(pgrep -P "$1"); do family "$child"; done
}

# Prints the ticks of processor time that a target's processes have used.
ticks() {
  local pid
  for pid in $(family "$1"); do cat "/proc/$pid/stat" 2>/dev/null; done |
    sed 's/.*) //' | awk '{ sum += $12 + $13 } END { print sum + 0 }'
}

# Prints the resident memory of a target's processes in KiB.
resident() {
  local pid
  for pid in $(family "$1"); do cat "/proc/$pid/status" 2>/dev/null; done |
    awk '/^VmRSS:/ { sum += $2 } END { print sum + 0 }'
}

# Prints targets in an order by chance: whoever comes next finds the caches and the disk as the one
# before left them. What that one wrote is on the disk before the next is measured (`sync`).
in_turn() { shuf -e "$@"; }

# load URL CONNECTIONS SECONDS: prints wrk's line of figures.
load() {
  local threads=$(($2 < CORES ? $2 : CORES))
  wrk -t "$threads" -c "$2" -d "${3}s" --timeout 30s -s bench/load.lua "$1" | grep '^FIGURES '
}


measure() {
  local round=$1 connections=$2 target=$3 before after figures
  sync
  before=$(ticks "${PID[$target]}")
  figures=$(load "${URL[$target]}" "$connections" "$SECONDS_EACH") || fail "wrk failed against $target"
  after=$(ticks "${PID[$target]}")
  case $figures in
    *not_2xx=0\ broken=0*) ;;
    *) fail "$target at $connections connections: $figures" ;;
  esac
  printf 'round=%s connections=%s target=%s cpu_us=%s resident_kib=%s %s\n' "$round" "$connections" "$target" \
    $(((after - before) * 1000000 / TICKS)) "$(resident "${PID[$target]}")" "${figures#FIGURES }" >>"$WORK/figures"
}

# Prints the commit that was built; nobody knows that of a binary that was given.
built_from() {
  [ -n "${BENCH_SERVICE:-}" ] || git rev-parse --short HEAD 2>/dev/null | sed 's/.*/ (&)/'
}

# The conditions of any run, a line each.
machine() {
  echo "date=$(date -u +%Y-%m-%d)"
  echo "cores=$CORES"
  echo "processor=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -1)"
  echo "kernel=$(uname -sr)"
  echo "nginx=$(nginx -v 2>&1 | sed 's/.*\///')"
  echo "wrk=$(wrk -v 2>&1 | sed -n 's/^wrk \([^ ]*\).*/\1/p')"
  echo "rounds=$ROUNDS"
  echo "seconds=$SECONDS_EACH"
  echo "load_before=$LOAD_BEFORE"
}

build_service() {
  SERVICE=${BENCH_SERVICE:-$PWD/target/release/integration-service}
  [ -n "${BENCH_SERVICE:-}" ] && return
  command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
  say "building the service"
  cargo build --release -q --bin integration-service || fail "the build failed"
}

# serve TARGET PORT [DATABASE_URL [DATA_FOLDER]]: the service with its defaults, but for a port, a
# key, a folder and leave to call loopback.
serve() {
  local target=$1 port=$2 database=${3:-} folder=$WORK/$1
  local data=${4:-$folder/data}
  mkdir -p "$folder/config"
  if [ -n "$database" ] && [ ! -e "$folder/master.key" ]; then
    (umask 077 && "$SERVICE" keys generate >"$folder/master.key") || fail "no master key could be made"
  fi
  start "$target" "$target.log" env -i PATH="$PATH" BENCH_UPSTREAM_KEY="$UPSTREAM_KEY" \
    INTEGRATION_SERVICE_CONFIG_DIR="$folder/config" INTEGRATION_SERVICE_DATA_DIR="$data" \
    INTEGRATION_SERVICE_PORT="$port" INTEGRATION_SERVICE_ADMIN_KEY="$KEY" \
    INTEGRATION_SERVICE_EGRESS_ALLOW=127.0.0.1 \
    ${database:+INTEGRATION_SERVICE_DATABASE_URL="$database"} \
    ${database:+INTEGRATION_SERVICE_MASTER_KEY="$(cat "$folder/master.key")"} "$SERVICE" serve
  await "$target" "$target.log" "http://127.0.0.1:$port/health/ready"
}

# start_service TARGET DATABASE_URL [JOURNAL_SYNC]: with one definition and one instance of it.
start_service() {
  local target=$1 database=$2 sync=${3:-} port folder=$WORK/$1
  port=$(free_port) || exit 1
  mkdir -p "$folder/config"
  cp bench/definition.yaml "$folder/config/"
  [ -z "$sync" ] || printf 'database:\n  journalSync: %s\n' "$sync" >"$folder/config/integration_service.yaml"
  cat >"$folder/config/integrations.yaml" <<CONFIG
definitions:
  - file: definition.yaml
instances:
  - id: bench
    integrationDefinitionId: bench
    config: { baseUrl: "http://$UPSTREAM" }
    credential: { type: api_key, data: { key: "\${BENCH_UPSTREAM_KEY}", headerOrParam: X-Upstream-Key, inHeader: true } }
CONFIG
  serve "$target" "$port" "$database"
  URL[$target]="http://127.0.0.1:$port/execute/bench/order"
}

# Prints the path of one of PostgreSQL's programs, which Debian keeps outside the PATH.
find_postgresql() {
  local folder
  for folder in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
    [ -x "$folder/$1" ] && { echo "$folder/$1"; return; }
  done
  command -v "$1"
}

# Starts a PostgreSQL with its defaults and sets POSTGRES_URL. It refuses to run as root.
start_postgresql() {
  local folder=$WORK/postgresql port user=() pid
  port=$(free_port) || exit 1
  mkdir -p "$folder"
  if [ "$(id -u)" -eq 0 ]; then
    chmod 755 "$WORK"
    chown postgres "$folder"
    user=(setpriv --reuid postgres --regid "$(id -g postgres)" --clear-groups)
  fi
  "${user[@]}" "$(find_postgresql initdb)" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C --no-instructions \
    >"$WORK/initdb.log" 2>&1 || { tail -20 "$WORK/initdb.log" >&2; fail "initdb failed"; }
  start postgresql postgresql.log "${user[@]}" "$(find_postgresql postgres)" -D "$folder/data" -p "$port" \
    -k "$folder" -h 127.0.0.1
  pid=${PID[postgresql]}
  for _ in $(seq 300); do
    kill -0 "$pid" 2>/dev/null || break
    "$(find_postgresql pg_isready)" -q -h 127.0.0.1 -p "$port" && break
    sleep 0.1
  done
  "$(find_postgresql pg_isready)" -q -h 127.0.0.1 -p "$port" || { tail "$WORK/postgresql.log" >&2; fail "PostgreSQL did not start"; }
  POSTGRES_URL="postgres://postgres@127.0.0.1:$port/postgres"
  POSTGRES_VERSION=$("$(find_postgresql postgres)" --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/')
}

LOAD_BEFORE=$(cut -d' ' -f1 /proc/loadavg)
KEY=bench-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
UPSTREAM_KEY=upstream-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export BENCH_KEY=$KEY BENCH_UPSTREAM_KEY=$UPSTREAM_KEY BENCH_BODY=bench/call.json
