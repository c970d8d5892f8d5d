# What the scripts need beside a Rust toolchain, found or installed. Sourced, not run.
# shellcheck shell=bash

has() { command -v "$1" >/dev/null 2>&1; }

in_ci() { [ "${CI:-}" = true ]; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs Debian packages, without their recommendations. Fails where there is no apt-get or no way to be root.
apt_install() {
  has apt-get || return 1
  [ "$(id -u)" -eq 0 ] || has sudo || return 1
  printf 'installing %s\n' "$*"
  if [ -z "${apt_updated:-}" ]; then
    as_root apt-get -qq update </dev/null || true # an old list may still do
    apt_updated=yes
  fi
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -y install --no-install-recommends "$@" </dev/null >/dev/null
}

# Whether there are the programs of a PostgreSQL server, where Debian puts them or on PATH.
has_postgres() {
  local programs
  programs=(/usr/lib/postgresql/*/bin/initdb)
  [ -x "${programs[0]}" ] || has initdb
}

# Whether there is libfaketime, where the tests look for it.
has_faketime() {
  local place
  for place in "${LIBFAKETIME:-}" /usr/lib/{x86_64-linux-gnu/,aarch64-linux-gnu/,,../lib64/}faketime/libfaketimeMT.so.1; do
    if [ -n "$place" ] && [ -e "$place" ]; then return 0; fi
  done
  return 1
}

# Whether a network namespace with a wire to it can be made: by root, and not in every container.
can_make_networks() {
  local name="topup-probe-$$" made=1
  has ip && ip netns add "$name" 2>/dev/null || return 1
  if ip link add "tup$$" type veth peer name "tuq$$" netns "$name" 2>/dev/null; then made=0; fi
  ip netns del "$name"
  return "$made"
}

# Exports REDIS_SERVER: the one given, the one on PATH, or one installed now.
ensure_redis_server() {
  if [ -z "${REDIS_SERVER:-}" ] && ! has redis-server; then
    if has apt-get; then
      apt_install redis-server || true
    elif has brew; then
      printf 'installing redis\n'
      brew install --quiet redis || true
    fi
  fi
  REDIS_SERVER=${REDIS_SERVER:-redis-server}
  export REDIS_SERVER
  if ! has "$REDIS_SERVER"; then
    printf '%s\n' "A Redis server (6.2 or newer) is needed and could not be installed here." \
      "Install it with your system's package manager (the package is called redis or redis-server)," \
      "or set REDIS_SERVER to the path of a redis-server binary, and run this again." >&2
    return 1
  fi
}
