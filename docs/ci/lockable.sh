#!/bin/sh
# Runs a command while holding a lock of Lockable, with nothing but curl:
#
#   lockable.sh NAME COMMAND [ARGUMENT...]
#
# LOCKABLE_URL, LOCKABLE_AUTH_TOKEN  the server, and who asks it
# LOCKABLE_LEASE                     seconds without a heartbeat after which others get the lock; 60
# LOCKABLE_WAIT                      seconds to wait for the lock; for ever unless set
# LOCKABLE_OWNER, LOCKABLE_NOTE      who holds it (each run adds to it what is its alone), and
#                                    what others of the account can read
#
# Exits with the command's code; 75 when the lock was not acquired, 74 when it was
# lost and the command was stopped, 69 when the server said neither yes nor no.
# The command finds its fencing token in LOCKABLE_FENCING_TOKEN.
#
# `lockable run` does more: it counts the lease on a clock that nobody can set, and
# stops the command even when it was stopped itself.
set -u

say() { printf 'lockable: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 69
}

[ $# -ge 2 ] || fail "usage: lockable.sh NAME COMMAND [ARGUMENT...]"
name=$1
shift
url=${LOCKABLE_URL:?}
token=$(printf '%s' "${LOCKABLE_AUTH_TOKEN:?}" | tr -cd 'A-Za-z0-9-')
lease=${LOCKABLE_LEASE:-60}
case $name in *[!A-Za-z0-9._~/-]*) fail "a name has letters, digits and . _ ~ - / here" ;; esac
case $lease in *[!0-9]* | '') fail "LOCKABLE_LEASE is a number of seconds" ;; esac
case ${LOCKABLE_WAIT:-0} in *[!0-9]*) fail "LOCKABLE_WAIT is a number of seconds" ;; esac
[ "$lease" -ge 12 ] || fail "LOCKABLE_LEASE is at least 12"
# Two runs of one owner would be one holder.
owner=$(printf '%s' "${LOCKABLE_OWNER:-$(uname -n)}" | cut -c 1-90):$$:$(date +%s)
folder=$(mktemp -d) || fail "there is no place for temporary files"

holding=no pid='' keeper='' asking='' next='' grouped='' starting='' fence='' curl='' nap=''

# Asks the server: route, seconds, parameters. The answer and the status of HTTP
# are in the folder then. The token stands on no command line, which others read.
# A number behind the route, as in acquire.2, tells two requests apart.
ask() {
  route=${1%%.*} seconds=$2 answer=$folder/$1
  shift 2
  for parameter in "owner=$owner" "$@"; do
    # A line break would begin another option of curl's.
    printf 'data-urlencode = "%s"\n' "$(printf '%s' "$parameter" | tr -d '\r\n' | sed 's/[\\"]/\\&/g')"
  done >"$answer.parameters"
  printf 'user = "%s:"\n' "$token" | cat - "$answer.parameters" |
    curl --config - --silent --show-error --max-time "$seconds" --write-out '%{http_code}' \
      --output "$answer" "$url/v1/$route/$name" >"$answer.status" 2>"$answer.error" &
  curl=$!
  wait "$curl"
}

# What the last answer to a route was: yes, no, busy (ask again), or bad.
outcome() {
  case $(cat "$folder/$1.status" 2>/dev/null) in
    200) if grep -q '"response":true' "$folder/$1"; then echo yes; else echo no; fi ;;
    000 | '' | 408 | 429 | 5??) echo busy ;;
    *) echo bad ;;
  esac
}

reason() { cat "$folder/$1.error" "$folder/$1" 2>/dev/null | tr '\n' ' '; }
member() { sed -n "s/.*\"$2\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$folder/$1"; }

# A signal to the command, and to its children where they can be told from ours.
signal() {
  # There is no group before setsid has made it.
  { [ -n "$grouped" ] && kill "-$1" "-$pid" 2>/dev/null; } || kill "-$1" "$pid" 2>/dev/null
}

# shellcheck disable=SC2317 # A trap calls it.
leave() {
  code=$?
  trap - EXIT
  trap '' INT TERM HUP
  [ -z "$asking" ] || kill "$asking" 2>/dev/null
  [ -z "$next" ] || kill "$next" 2>/dev/null
  [ -z "$keeper" ] || kill "$keeper" 2>/dev/null
  [ ! -e "$folder/lost" ] || code=74
  # A place in the line is given up the same way.
  [ "$holding" = no ] || ask release 5 ${fence:+"fencing_token=$fence"}
  rm -rf "$folder"
  exit "$code"
}
trap leave EXIT

# Before the command runs a signal ends the wait; then it is for the command.
# Commands in the background ignore INT, so they are sent TERM.
ended_by=''
# shellcheck disable=SC2317 # Traps call it.
on_signal() {
  ended_by=$1
  if [ -n "$pid" ]; then signal TERM; elif [ -z "$starting" ]; then exit $((128 + $1)); fi
}
trap 'on_signal 1' HUP
trap 'on_signal 2' INT
trap 'on_signal 15' TERM

# Renews the lease. When that has failed for two thirds of it, or the lock is not
# ours any more, ends the command while nobody else can have the lock.
keep() {
  trap - EXIT HUP INT
  trap 'kill "$nap" "$curl" 2>/dev/null; exit 0' TERM
  sent=$1 pause=$((lease / 3))
  while :; do
    sleep "$pause" &
    nap=$!
    wait "$nap"
    # Without the shell that runs it nobody would ever release the lock.
    kill -0 "$$" 2>/dev/null || break
    began=$(date +%s)
    ask heartbeat $((lease / 6)) "lease=$lease" "fencing_token=$fence"
    case $(outcome heartbeat) in
      yes) sent=$began pause=$((lease / 3)) && continue ;;
      no) break ;;
    esac
    pause=$((lease / 12))
    # One more would come too late.
    [ $(($(date +%s) - sent + lease / 12 + lease / 6)) -le $((lease * 2 / 3)) ] || break
  done
  # The run is over, and its signal came before this could hear it.
  [ -d "$folder" ] || exit 0
  : >"$folder/lost"
  say "the lock is lost, or may be: $(reason heartbeat)"
  signal TERM
  while [ "$(date +%s)" -lt $((sent + lease * 5 / 6)) ] && kill -0 "$pid" 2>/dev/null; do sleep 1; done
  signal KILL
}

# Asks for the lock in the background, so that a signal is heard at once: number of the
# request, seconds until it is sent, seconds to wait.
acquire() {
  (
    trap - EXIT HUP INT
    trap 'kill "$nap" "$curl" 2>/dev/null; exit 1' TERM
    if [ "$2" -gt 0 ]; then
      sleep "$2" &
      nap=$!
      wait "$nap"
    fi
    ask "acquire.$1" $(($3 + 12)) "wait=$3" "lease=$lease" "note=${LOCKABLE_NOTE:-}"
  ) &
}
# How many seconds one request waits at most.
seconds_left() {
  left=20
  if [ -n "${LOCKABLE_WAIT:-}" ]; then
    rest=$((LOCKABLE_WAIT - ($(date +%s) - began) - $1))
    [ "$rest" -ge "$left" ] || left=$rest
    [ "$left" -ge 0 ] || left=0
  fi
}

holding=perhaps began=$(date +%s) told='' troubled='' number=0
while :; do
  if [ -z "$next" ]; then
    seconds_left 0
    number=$((number + 1))
    sent=$(date +%s)
    acquire "$number" 0 "$left"
    asking=$!
  else
    asking=$next next=''
  fi
  # The next request is sent before this one ends, and takes over the position: while
  # none is open, others are served first.
  seconds_left 15
  if [ -n "$told" ] && [ "$left" -gt 0 ]; then
    acquire $((number + 1)) 15 "$left"
    next=$!
  fi
  wait "$asking"
  asking=''
  case $(outcome "acquire.$number") in
    yes) break ;;
    no)
      if [ -n "${LOCKABLE_WAIT:-}" ] && [ $(($(date +%s) - began)) -ge "$LOCKABLE_WAIT" ]; then
        say "$name is held by another"
        exit 75
      fi
      [ -n "$told" ] || say "waiting for $name"
      told=yes troubled=''
      if [ -n "$next" ]; then
        case $(cat "$folder/acquire.$number") in
          *'"reason":"replaced"'*) number=$((number + 1)) && continue ;;
        esac
      fi
      ;;
    busy)
      [ -n "$troubled" ] || say "no answer, trying again: $(reason "acquire.$number")"
      troubled=yes
      if [ -n "${LOCKABLE_WAIT:-}" ] && [ $(($(date +%s) - began)) -ge "$LOCKABLE_WAIT" ]; then exit 69; fi
      sleep 2
      ;;
    bad) fail "$(reason "acquire.$number")" ;;
  esac
  # It was answered before the next one was sent.
  [ -z "$next" ] || kill "$next" 2>/dev/null
  next=''
done
[ -z "$next" ] || kill "$next" 2>/dev/null
next=''
holding=yes
fence=$(member "acquire.$number" fencing_token)
# The lease counts from when the lock was handed over. This one says it anew.
sent=$(date +%s)
ask heartbeat $((lease / 6)) "lease=$lease" "fencing_token=$fence"
[ "$(outcome heartbeat)" = yes ] || fail "the lock was granted, and not renewed: $(reason heartbeat)"

LOCKABLE_LOCK=$name LOCKABLE_OWNER=$owner
LOCKABLE_FENCING_TOKEN=$fence LOCKABLE_EXPIRES_AT=$(member heartbeat expires_at)
export LOCKABLE_LOCK LOCKABLE_OWNER LOCKABLE_FENCING_TOKEN LOCKABLE_EXPIRES_AT

# What runs in the background has no standard input unless it is given one.
exec 3<&0
starting=yes
if command -v setsid >/dev/null; then
  setsid "$@" <&3 3<&- &
  grouped=yes
else
  "$@" <&3 3<&- &
fi
pid=$!
exec 3<&-
[ -z "$ended_by" ] || signal TERM
keep "$sent" </dev/null >/dev/null &
keeper=$!

# A signal interrupts the wait, not the command.
while :; do
  wait "$pid"
  code=$?
  kill -0 "$pid" 2>/dev/null || break
done
# What it leaves behind is ended before anybody else has the lock.
if [ -n "$grouped" ] && kill -TERM "-$pid" 2>/dev/null; then
  rest=$((lease / 6))
  while [ "$rest" -gt 0 ] && kill -0 "-$pid" 2>/dev/null; do
    sleep 1
    rest=$((rest - 1))
  done
  kill -KILL "-$pid" 2>/dev/null
fi
if [ -n "$ended_by" ] && [ "$code" -gt 128 ]; then code=$((128 + ended_by)); fi
exit "$code"
