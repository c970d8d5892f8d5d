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
