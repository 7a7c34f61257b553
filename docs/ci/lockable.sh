#!/bin/sh
# Runs a command while it holds a Lockable lock. Needs a POSIX shell, curl and the POSIX
# utilities. `lockable.sh --help` lists the variables and exit codes.
#
# The command stays in the process group and session of its caller, as under flock(1).
# Two helper processes survive Ctrl-C, Ctrl-Z and the death of this shell, in sessions of
# their own where setsid(1) exists. The renewer renews the lease. The guard ends the command
# before the lease expires if the renewer does not. If this shell dies, the renewer ends the
# command and releases the lock.
#
# On Linux the script finds a process of the command by its parents and by LOCKABLE_HOLDER in
# its environment; elsewhere by its parents only. It misses a process that drops the variable
# and leaves its parents; `lockable run` finds such a process.
#
# Variables begin with lk_, so that no exported variable of the caller changes.
[ -z "${ZSH_VERSION:-}" ] || emulate sh
# The caller may export SHELLOPTS. A trace (-x) would show the token.
set +efmxC -u
# The next opened file or pipe would reuse a closed standard descriptor.
lk_closed=''
(: 9<&0) 2>/dev/null || { lk_closed=0 && exec </dev/null; }
(: 9>&1) 2>/dev/null || { lk_closed=1$lk_closed && exec >/dev/null; }
(: 9>&2) || { lk_closed=2$lk_closed && exec 2>/dev/null; }

usage() {
  cat <<'END'
Usage: lockable.sh [--] NAME [--] COMMAND [ARGUMENT...]

Waits for the lock NAME, runs COMMAND while holding it, then releases it.

Variables (an empty one counts as unset):
  LOCKABLE_URL         address of the server, such as https://locks.example.com
  LOCKABLE_TOKEN_FILE  file with the token on its first line
  LOCKABLE_AUTH_TOKEN  the token, unless LOCKABLE_TOKEN_FILE is set
  LOCKABLE_CA_FILE     file of CA certificates (PEM) to trust
  LOCKABLE_NAMESPACE   namespace of the lock; default: the token's
  LOCKABLE_WAIT        how long to wait for the lock; default: no limit
  LOCKABLE_LEASE       the lease: the lock is released unless a heartbeat arrives within this
                       time; at least 6s; default: the account's lease
  LOCKABLE_OWNER       beginning of the holder's name; the script appends host, process ID and
                       a random number
  LOCKABLE_NOTE        text shown to callers of the same account while the lock is held
  LOCKABLE_LEAVE_BACKGROUND
                       1: background processes of COMMAND run on without the lock when COMMAND
                       has ended; default: they are ended
Durations: 90 or 90s, 1500ms, 5m, 1.5h, 1d.

COMMAND gets LOCKABLE_LOCK, LOCKABLE_FENCING_TOKEN, LOCKABLE_HOLDER (the holder's name)
and LOCKABLE_EXPIRES_AT (at its start) in its environment.

TERM ends COMMAND: it gets TERM, and all of its processes get KILL if it still runs a sixth of the
lease later, but no more than 10 seconds.

Exit codes: COMMAND's exit code; 126 or 127 if it cannot be executed; 75 if the lock was not
acquired; 74 if the lock was lost and COMMAND was ended; 69 if the server is unreachable or
returned an error; 2 for a usage error. If a signal ended COMMAND or the wait, lockable.sh
dies of it, too.
END
}
message() { printf 'lockable: %s\n' "$*" >&2; }
fail() {
  message "$*"
  exit 69
}
usage_error() {
  message "$*"
  usage >&2
  exit 2
}

# Sets lk_now to the time in hundredths of a second, of a monotonic clock where there is one.
now() {
  if { read -r lk_now lk_rest </proc/uptime; } 2>/dev/null; then
    lk_now=${lk_now%.*}${lk_now#*.}
  else
    lk_now=$(date +%s)00
  fi
}
# Sets lk_ms to the milliseconds of a duration.
duration() {
  lk_whole=${1%%[!0-9.]*}
  case ${1#"$lk_whole"} in
    '' | s | sec) lk_unit=1000 ;;
    ms) lk_unit=1 ;;
    m | min) lk_unit=60000 ;;
    h) lk_unit=3600000 ;;
    d) lk_unit=86400000 ;;
    *) return 1 ;;
  esac
  case $lk_whole in '' | .* | *. | *.*.* | *.????*) return 1 ;; esac
  lk_rest=${lk_whole#"${lk_whole%%.*}"}
  lk_rest=${lk_rest#.}000 lk_whole=${lk_whole%%.*}
  while [ ${#lk_rest} -gt 3 ]; do lk_rest=${lk_rest%?}; done
  lk_whole=${lk_whole#"${lk_whole%%[!0]*}"}
  [ ${#lk_whole} -le 9 ] || return 1
  lk_ms=$((${lk_whole:-0} * lk_unit + (1$lk_rest - 1000) * lk_unit / 1000))
}
# Sets lk_clean to the text $3 in the characters that the server accepts, cut to $1 bytes. $2
# replaces each other character. In an owner ($2 is "-") it also replaces white space.
clean() {
  lk_clean=$3
  # The common case needs no change.
  case $3 in *[!A-Za-z0-9._:/@+-]*) ;; *) [ ${#3} -gt "$1" ] || return 0 ;; esac
  lk_clean='' lk_size=0 lk_more=0 lk_byte=''
  for lk_byte in $(printf '%s' "$3" | od -A n -v -t u1); do
    lk_octal="\\0$((lk_byte / 64))$((lk_byte / 8 % 8))$((lk_byte % 8))"
    if [ "$lk_byte" -ge 128 ] && [ "$lk_byte" -lt 192 ]; then
      # A continuation byte without its first byte.
      [ "$lk_more" -gt 0 ] || continue
      lk_char=$lk_char$lk_octal lk_code=$((lk_code * 64 + lk_byte - 128))
      lk_more=$((lk_more - 1)) lk_length=$((lk_length + 1))
      [ "$lk_more" -eq 0 ] || continue
    else
      lk_char=$lk_octal lk_code=$lk_byte lk_more=0 lk_length=1
      if [ "$lk_byte" -ge 240 ]; then
        lk_code=$((lk_byte - 240)) lk_more=3
      elif [ "$lk_byte" -ge 224 ]; then
        lk_code=$((lk_byte - 224)) lk_more=2
      elif [ "$lk_byte" -ge 192 ]; then
        lk_code=$((lk_byte - 192)) lk_more=1
      fi
      [ "$lk_more" -eq 0 ] || continue
    fi
    # Controls, line separators, and characters that reorder text.
    if [ "$lk_code" -lt 32 ] || { [ "$lk_code" -ge 127 ] && [ "$lk_code" -lt 160 ]; } ||
      { [ "$lk_code" -ge 8232 ] && [ "$lk_code" -le 8238 ]; } ||
      { [ "$lk_code" -ge 8294 ] && [ "$lk_code" -le 8297 ]; }; then
      lk_char=$2 lk_length=1
    elif [ "$2" = - ]; then
      # Invisible characters: spaces, joiners, variation selectors, fillers.
      case $lk_code in
        32 | 160 | 173 | 847 | 1564 | 444[78] | 5760 | 606[89] | 615[5-9] | 819[2-9] | 820[0-7] | 8239 | \
          828[7-9] | 829[0-9] | 830[0-3] | 10240 | 12288 | 12644 | 6502[4-9] | 6503[0-9] | 65279 | 65440)
          lk_char=- lk_length=1
          ;;
      esac
    fi
    lk_size=$((lk_size + lk_length))
    [ "$lk_size" -le "$1" ] || break
    lk_clean=$lk_clean$lk_char
  done
  lk_clean=$(printf '%b' "$lk_clean")
}

# Requests. The token is not on a command line, which other users can read.
quoted() { printf '%s' "$1" | tr -d '\r\n' | sed 's/[\\"]/\\&/g'; }
# Prints curl's configuration for a request: route, timeout in hundredths of a second, parameters.
request() {
  printf '%s\n' silent show-error globoff path-as-is 'proto = "=http,https"' 'write-out = "\n%{http_code}"'
  printf 'user = "%s:"\n' "$(quoted "$lk_token")"
  printf 'url = "%s/v1/%s/%s"\n' "$(quoted "$lk_url")" "$1" "$lk_path"
  printf 'max-time = %s\n' "$(($2 / 100)).$(($2 / 10 % 10))"
  [ -z "${LOCKABLE_CA_FILE:-}" ] || printf 'cacert = "%s"\n' "$(quoted "$LOCKABLE_CA_FILE")"
  shift 2
  for lk_parameter in "owner=$lk_holder" ${LOCKABLE_NAMESPACE:+"namespace=$LOCKABLE_NAMESPACE"} "$@"; do
    printf 'data-urlencode = "%s"\n' "$(quoted "$lk_parameter")"
  done
}
send() {
  lk_output=$(request "$@" | curl -q --config - 2>&1)
  parse_answer $? "$lk_output"
}
# Sets lk_field to a field of the JSON object in lk_body.
json_field() {
  lk_field=$(printf '%s\n' "$lk_body" |
    sed -nE 's/.*"'"$1"'":("(([^"\\]|\\.)*)"|([^",}]*)).*/\2\4/p' | sed 's/\\\(["\\/]\)/\1/g')
}
# Parses an answer from curl's exit code and output. Sets lk_verdict to yes, no, later, unknown
# (no such host) or never, and lk_reason to the reason in words.
parse_answer() {
  lk_body=$(printf '%s\n' "$2" | sed '$d' | tr -d '\000-\037\177')
  lk_status=${2##*[!0-9]} lk_reason=$lk_body
  if [ "$1" -eq 0 ]; then
    case $lk_status in
      200 | 423)
        case $lk_body in
          '{"response":true'*) lk_verdict=yes ;;
          '{"response":false'*) lk_verdict=no ;;
          *) lk_verdict=never lk_reason="$lk_url does not answer like a Lockable server" ;;
        esac
        return
        ;;
      408 | 429 | 5??) lk_verdict=later ;;
      *) lk_verdict=never ;;
    esac
    json_field title
    lk_reason=$lk_field
    json_field detail
    lk_reason="$lk_reason: $lk_field"
    json_field request_id
    lk_reason="$lk_reason (request $lk_field)"
    [ "$lk_reason" != ':  (request )' ] || lk_reason="$lk_url answers with status $lk_status, not like a Lockable server"
    [ "$lk_status" != 401 ] || lk_reason="$lk_reason; the token is from $lk_source"
    return
  fi
  lk_reason=$(printf '%s\n' "$2" | grep -v -e '^000$' -e '^$' | tr '\n' ' ')
  lk_reason="$lk_url cannot be reached: ${lk_reason% }"
  lk_verdict=later
  case $1 in
    126 | 127) lk_verdict=never lk_reason="curl cannot be run: install it, or use lockable run" ;;
    5 | 6) lk_verdict=unknown ;;
    1 | 2 | 3 | 4 | 51 | 53 | 54 | 58 | 59 | 60 | 66 | 77 | 80 | 83 | 90 | 91) lk_verdict=never ;;
    35)
      # A restarting server also ends handshakes.
      case $lk_reason in *[Rr]eset* | *SYSCALL* | *eof* | *EOF*) ;; *) lk_verdict=never ;; esac
      ;;
  esac
}
# Sets lk_refusal to the reason of a refusal, as a phrase that follows the lock's name.
explain() {
  json_field recovering_until
  lk_refusal="is recovering until $lk_field: Redis may have lost data, so no new lock is granted before"
  [ -z "$lk_field" ] || return
  json_field acquired_at
  lk_refusal="since $lk_field"
  if [ -n "$lk_field" ]; then
    json_field note
    lk_refusal="${lk_field:+($lk_field) }$lk_refusal"
    json_field owner
    [ "$lk_field" != null ] || lk_field='an unnamed holder of this account'
    lk_refusal="is held by $lk_field $lk_refusal"
    return
  fi
  json_field reason
  case $lk_field in
    held | timed_out | draining | replaced) lk_refusal='is held by another' ;;
    *) lk_refusal="is not granted: $lk_field" ;;
  esac
}

# Processes. A process is identified by its id and its start time, because ids are reused.
# Sets lk_state and lk_id; fails if the process does not exist.
read_process() {
  if [ -e /proc/self/stat ]; then
    { read -r lk_line <"/proc/$1/stat"; } 2>/dev/null || return 1
    lk_pid=$1
    # The fields after the program's name, which may contain spaces.
    # shellcheck disable=SC2086 # To be split.
    set -- ${lk_line##*) }
    lk_state=$1 lk_parent=$2 lk_id=$lk_pid:${20}
  else
    lk_state=$(ps -o stat= -p "$1") lk_parent='' lk_id=$1:-
  fi
  case $lk_state in '' | Z* | X*) return 1 ;; esac
}
is_running() { [ -n "$1" ] && read_process "${1%:*}" && [ "$lk_id" = "$1" ]; }
# Sends a signal: $1 is its name, $2 the process.
signal_process() { is_running "$2" && kill -s "$1" "${2%:*}" 2>/dev/null; }
# Sets lk_left to all running processes of the command. lk_known stores them, because their
# parents may have ended at the next scan.
scan() {
  { read -r lk_root <"$lk_folder/command"; } 2>/dev/null || lk_root=''
  lk_table='' lk_left=''
  if [ -e /proc/self/stat ]; then
    lk_marked=' '
    # Only some greps read beyond a NUL; such a grep searches all environments at once.
    if printf 'a\000bc\000' | grep -qF bc; then
      lk_marked=" $(grep -lsF "LOCKABLE_HOLDER=$lk_holder" /proc/[0-9]*/environ | tr '\n' ' ') "
    fi
    for lk_entry in /proc/[0-9]*; do
      read_process "${lk_entry#/proc/}" || continue
      lk_table="$lk_table $lk_id:$lk_parent"
      # Skip processes that are older than the command or already known.
      [ "${lk_id#*:}" -ge "${lk_wrapper#*:}" ] || continue
      case " $lk_root $lk_known " in *" $lk_id "*) continue ;; esac
      case $lk_marked in
        ' ') tr '\000\n' '\n ' 2>/dev/null <"$lk_entry/environ" | grep -qxF "LOCKABLE_HOLDER=$lk_holder" || continue ;;
        *" $lk_entry/environ "*) ;;
        *) continue ;;
      esac
      lk_known="$lk_known $lk_id"
    done
  else
    for lk_entry in $(ps -A -o pid= -o ppid= | sed 's/^ *\([0-9]*\)  *\([0-9]*\).*/\1:-:\2/'); do
      lk_table="$lk_table $lk_entry"
    done
  fi
  case " $lk_known " in *" $lk_root "*) ;; *) lk_known="$lk_known $lk_root" ;; esac
  # Begin with the known processes in the table; add their children until no more are found.
  lk_ids=' ' lk_grown=yes
  while [ -n "$lk_grown" ]; do
    lk_grown=''
    for lk_entry in $lk_table; do
      lk_id=${lk_entry%:*}
      case $lk_ids in *" ${lk_id%:*} "*) continue ;; esac
      case "$lk_ids/ $lk_known " in
        *" ${lk_entry##*:} "*/* | */*" $lk_id "*)
          lk_ids="$lk_ids${lk_id%:*} " lk_left="$lk_left $lk_id" lk_grown=yes
          ;;
      esac
    done
  done
  for lk_id in $lk_left; do
    case " $lk_known " in *" $lk_id "*) ;; *) lk_known="$lk_known $lk_id" ;; esac
  done
}
# Ends all processes of the command: TERM, then KILL at lk_kill_at. Fails if some remain.
end_all() {
  lk_signaled=' '
  while :; do
    scan
    [ -n "$lk_left" ] || return 0
    now
    for lk_target in $lk_left; do
      if [ "$lk_now" -ge "$lk_kill_at" ]; then
        signal_process KILL "$lk_target"
        continue
      fi
      case $lk_signaled in *" $lk_target "*) continue ;; esac
      lk_signaled="$lk_signaled$lk_target "
      # A stopped process cannot handle TERM.
      signal_process TERM "$lk_target"
      signal_process CONT "$lk_target"
    done
    [ "$lk_now" -lt $((lk_kill_at + 200)) ] || break
    sleep "$lk_short"
  done
  for lk_target in $lk_left; do
    message "cannot end process ${lk_target%:*}: it runs on; the lock stays held until its lease expires"
  done
  return 1
}

# Helpers.
# Starts the renewer or the guard, and prints its process.
helper() {
  [ -f "$lk_copy" ] || lk_copy=''
  if [ -n "$lk_copy" ]; then
    LOCKABLE_AUTH_TOKEN=$lk_token LOCKABLE_TOKEN_FILE='' setsid sh "$lk_copy" --helper "$1" "$lk_wrapper" \
      "$lk_folder" "$lk_holder" "$lk_fence" "$lk_lease" "$lk_sent" "$lk_path" </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  else
    (run_helper "$1") </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  fi
}
# The loop of the renewer and of the guard; the wrapper kills it.
run_helper() {
  trap - EXIT
  trap '' HUP INT QUIT TERM TSTP TTIN TTOU USR1 USR2 ALRM PIPE
  lk_next=$((lk_sent + lk_lease / 3)) lk_failing=''
  read_process "$(exec sh -c 'echo "$PPID"')"
  # Both helpers keep this pipe open: its reader gets end-of-file when both are dead.
  { exec 9<>"$lk_folder/alive"; } 2>/dev/null
  { printf '%s\n' "$lk_id" >"$lk_folder/$1"; } 2>/dev/null
  printf '%s\n' "$lk_id" 2>/dev/null
  exec >/dev/null
  while :; do
    sleep "$lk_tick"
    if [ "$1" = renewer ]; then
      is_running "$lk_wrapper" || take_over guard
      partner guard || helper guard
      [ ! -d "$lk_folder/ending" ] || signal_process ALRM "$lk_wrapper"
      now
      check_grace
      [ "$lk_now" -lt "$lk_next" ] || renew
    else
      is_running "$lk_wrapper" || partner renewer || take_over renewer
      { read -r lk_read <"$lk_folder/sent"; } 2>/dev/null && lk_sent=${lk_read:-$lk_sent}
      partner renewer || helper renewer
      now
      [ "$lk_now" -lt $((lk_sent + lk_lease * 3 / 4)) ] || end_after_loss $((lk_lease / 12)) "the renewer has not renewed its lease" renewer
    fi
  done
}
# Kills all processes of the command if it still runs lk_grace after a TERM to the wrapper.
check_grace() {
  { read -r lk_read <"$lk_folder/kill_at" && read -r lk_root <"$lk_folder/command"; } 2>/dev/null || return
  [ "$lk_now" -ge "$lk_read" ] && is_running "$lk_root" || return
  message "the command still runs $((lk_grace / 100)) s after TERM; all of its processes are killed"
  lk_kill_at=$lk_now
  # After a failure another TERM starts another attempt.
  end_all || rm -f "$lk_folder/kill_at"
  now
}
# Whether the other helper is running.
partner() {
  { read -r lk_partner <"$lk_folder/$1"; } 2>/dev/null || lk_partner=''
  is_running "$lk_partner"
}
renew() {
  lk_heartbeat_sent=$lk_now
  send heartbeat $((lk_lease / 6)) "lease=${lk_lease}0ms" "fencing_token=$lk_fence"
  case $lk_verdict in
    yes)
      lk_sent=$lk_heartbeat_sent lk_next=$((lk_heartbeat_sent + lk_lease / 3)) lk_failing=''
      write_sent
      return
      ;;
    no)
      json_field reason
      end_after_loss $((lk_lease / 6)) "the server refused its heartbeat ($lk_field)" guard
      ;;
  esac
  [ -n "$lk_failing" ] || message "a heartbeat failed, retrying: $lk_reason"
  lk_failing=yes
  now
  lk_next=$((lk_now + lk_lease / 12))
  # Another heartbeat would end too late.
  [ $((lk_next + lk_lease / 6)) -le $((lk_sent + lk_lease * 2 / 3)) ] ||
    end_after_loss $((lk_sent + lk_lease * 5 / 6 - lk_now)) "no heartbeat was answered: $lk_reason" guard
}
# Stores the time of the last confirmed request for the guard.
write_sent() {
  printf '%s\n' "$lk_sent" >"$lk_folder/sent.new" && mv -f "$lk_folder/sent.new" "$lk_folder/sent"
} 2>/dev/null
# Ends the command after a loss: $1 is the time from TERM to KILL in hundredths of a second, $2
# the reason, $3 the other helper.
end_after_loss() {
  now
  lk_kill_at=$((lk_now + ($1 < 1000 ? $1 : 1000)))
  if mkdir "$lk_folder/lost" 2>/dev/null || [ ! -d "$lk_folder" ]; then
    message "the lock is or may be lost, the command is ended: $2"
  fi
  end_all
  mkdir "$lk_folder/ended" 2>/dev/null
  while is_running "$lk_wrapper"; do sleep "$lk_tick"; done
  partner "$3"
  rm -rf "$lk_folder"
  # KILL also ends a stopped process.
  signal_process KILL "$lk_partner"
  exit 0
}
# Ends the command after the wrapper's death, and releases the lock.
take_over() {
  scan
  # The wrapper removes the folder last.
  [ -n "$lk_left" ] || [ -d "$lk_folder" ] || exit 0
  message "lockable.sh was killed; its helper ends the command"
  now
  lk_kill_at=$((lk_now + lk_grace))
  end_all && send release 200 "fencing_token=$lk_fence"
  ! partner "$1" || signal_process KILL "$lk_partner"
  rm -rf "$lk_folder"
  exit 0
}
# Derives the intervals from the lease.
schedule() {
  lk_grace=$((lk_lease / 6 < 1000 ? lk_lease / 6 : 1000)) lk_tick=1 lk_short=1
  # Not every sleep accepts fractions.
  if sleep 0.01 2>/dev/null; then
    lk_short=0.1
    [ "$lk_lease" -ge 3000 ] || lk_tick=0.3
  fi
}

# Settings.
# Reads the server's address, the token and the CA file.
read_server() {
  lk_url=${LOCKABLE_URL:-}
  while [ "${lk_url%/}" != "$lk_url" ]; do lk_url=${lk_url%/}; done
  case $lk_url in
    '') usage_error "LOCKABLE_URL is not set" ;;
    [Hh][Tt][Tt][Pp]://?* | [Hh][Tt][Tt][Pp][Ss]://?*) ;;
    *) usage_error "LOCKABLE_URL is not an address: write https:// or http:// before the host" ;;
  esac
  if [ -n "${LOCKABLE_TOKEN_FILE:-}" ]; then
    lk_source=$LOCKABLE_TOKEN_FILE
    [ -f "$lk_source" ] || [ -p "$lk_source" ] || usage_error "LOCKABLE_TOKEN_FILE: there is no file $lk_source"
    lk_token=$(cat "$lk_source") || usage_error "LOCKABLE_TOKEN_FILE: $lk_source cannot be read"
  else
    lk_source=LOCKABLE_AUTH_TOKEN lk_token=${LOCKABLE_AUTH_TOKEN:-}
  fi
  lk_token=$(printf '%s\n' "$lk_token" | sed -n '1{s/^[[:space:]]*//;s/[[:space:]]*$//;p;}')
  case $lk_token in
    '') usage_error "there is no token: set LOCKABLE_AUTH_TOKEN or LOCKABLE_TOKEN_FILE" ;;
    *[!A-Za-z0-9_-]*) usage_error "$lk_source has no token on its first line: write only the token there" ;;
  esac
  if [ -n "${LOCKABLE_CA_FILE:-}" ] && ! [ -r "$LOCKABLE_CA_FILE" ]; then
    usage_error "LOCKABLE_CA_FILE: $LOCKABLE_CA_FILE cannot be read"
  fi
}
# Reads the wait, the lease, the owner, the note and what to do with background processes.
read_lock_settings() {
  lk_wait='' lk_lease=''
  if [ -n "${LOCKABLE_WAIT:-}" ]; then
    duration "$LOCKABLE_WAIT" || usage_error "LOCKABLE_WAIT is not a duration such as 90s or 5m: $LOCKABLE_WAIT"
    lk_wait=$((lk_ms / 10))
  fi
  if [ -n "${LOCKABLE_LEASE:-}" ]; then
    duration "$LOCKABLE_LEASE" || usage_error "LOCKABLE_LEASE is not a duration such as 90s or 5m: $LOCKABLE_LEASE"
    lk_lease=$((lk_ms / 10))
    [ "$lk_lease" -ge 600 ] || usage_error "LOCKABLE_LEASE must be at least 6s; for shorter leases use lockable run"
  fi
  case $lk_name in
    # Also encode dots and slashes, which curl and proxies would normalize.
    *[!A-Za-z0-9_-]*) lk_path=$(printf '%s' "$lk_name" | od -A n -v -t x1 | tr -d ' \n' | sed 's/../%&/g') ;;
    *) lk_path=$lk_name ;;
  esac
  # Each run is a separate holder: two runs with the same owner would share the lock.
  lk_random=$(od -A n -N 4 -t x1 /dev/urandom 2>/dev/null | tr -d ' \n')
  clean 30 - "$(uname -n)"
  lk_holder=$lk_clean:$$:${lk_random:-$(date +%s)}
  if [ -n "${LOCKABLE_OWNER:-}" ]; then
    clean 80 - "$LOCKABLE_OWNER"
    lk_holder=$lk_clean:$lk_holder
    [ "$lk_clean" = "$LOCKABLE_OWNER" ] || message "LOCKABLE_OWNER was shortened or has invalid characters replaced: $lk_clean"
  fi
  lk_note=${LOCKABLE_NOTE:-}
  clean 500 ' ' "$lk_note"
  if [ "$lk_clean" != "$lk_note" ]; then
    lk_note=$lk_clean
    message "LOCKABLE_NOTE was shortened to 500 bytes or has invalid characters replaced"
  fi
  # The words that lockable run accepts.
  case ${LOCKABLE_LEAVE_BACKGROUND:-} in
    '' | 0 | [nNfF] | [nN][oO] | [oO][fF][fF] | [fF][aA][lL][sS][eE]) lk_leave_background='' ;;
    *) lk_leave_background=yes ;;
  esac
  [ "${LOCKABLE_LOCK:-}" != "$lk_name" ] || message "this run is inside a run that holds $lk_name, and may wait for itself; use another lock"
}

# Cleans up at every exit.
# shellcheck disable=SC2317 # A trap calls it.
clean_up() {
  lk_code=$?
  trap - EXIT
  # bash also runs this trap in a subshell that a signal ends.
  if { read -r lk_pid lk_rest </proc/self/stat; } 2>/dev/null && [ "$lk_pid" -ne $$ ]; then exit "$lk_code"; fi
  trap '' HUP INT QUIT PIPE TERM USR1 USR2 ALRM
  for lk_pid in $lk_request $lk_next $lk_sleep ${lk_sentinel%:*}; do kill "$lk_pid" 2>/dev/null; done
  # Each helper restarts the other one.
  for lk_role in renewer guard renewer; do
    partner "$lk_role" || continue
    # Also kill its sleep or curl, if it leads a process group.
    kill -s KILL -- "-${lk_partner%:*}" 2>/dev/null || kill -s KILL "${lk_partner%:*}" 2>/dev/null
  done
  # The release also cancels a wait in the queue.
  [ -z "$lk_may_hold" ] || send release 200 ${lk_fence:+"fencing_token=$lk_fence"}
  rm -rf "$lk_folder"
  # A shell ends its loop or script when a command dies of a signal, not when it exits with 128+N.
  if [ "$lk_code" -gt 128 ] && [ "$lk_code" -le 143 ] && [ "$lk_code" -ne 137 ]; then
    # shellcheck disable=SC3045 # Without ulimit -c, this shell may leave a core dump.
    ulimit -c 0 2>/dev/null
    trap - $((lk_code - 128))
    # zsh does not die of HUP.
    # shellcheck disable=SC2016 # The inner shell expands it.
    [ -z "${ZSH_VERSION:-}" ] || exec sh -c 'kill -"$1" $$; exit "$2"' sh $((lk_code - 128)) "$lk_code"
    kill -$((lk_code - 128)) $$
  fi
  exit "$lk_code"
}
# shellcheck disable=SC2317 # Traps call it.
on_signal() {
  lk_signal=$1 lk_pending_signal=$2
  case $lk_phase in
    waiting) exit $((128 + $2)) ;;
    running) [ "$1" = PIPE ] || forward_signal "$1" ;;
  esac
}
prepare() {
  lk_request='' lk_next='' lk_sleep='' lk_sentinel='' lk_fence='' lk_may_hold='' lk_command='' lk_pending_signal=''
  lk_term_kill_at=''
  lk_phase=waiting
  lk_mask=$(umask)
  umask 077
  lk_folder=$(mktemp -d) || fail "cannot create a folder for temporary files: check TMPDIR"
  trap clean_up EXIT
  trap 'on_signal HUP 1' HUP
  trap 'on_signal INT 2' INT
  trap 'on_signal QUIT 3' QUIT
  trap 'on_signal TERM 15' TERM
  trap 'on_signal PIPE 13' PIPE
  trap 'on_signal USR1 10' USR1
  trap 'on_signal USR2 12' USR2
  # The helpers run a copy, because this file may be replaced while the script waits.
  if command -v setsid >/dev/null && [ -f "$0" ] && grep -q '^Usage: lockable.sh ' "$0" &&
    cp "$0" "$lk_folder/lockable"; then
    lk_copy=$lk_folder/lockable
  fi
  mkfifo "$lk_folder/alive" || fail "cannot create a named pipe in $lk_folder"
  read_process $$
  lk_wrapper=$lk_id
}
interruptible_sleep() {
  sleep "$1" &
  lk_sleep=$!
  wait "$lk_sleep"
  lk_sleep=''
}

# Acquires the lock.
# Sends an acquire in the background, so that signals are handled at once: $1 is its number, $2
# the delay before it is sent and $3 its wait at the server, in hundredths of a second.
acquire() {
  (
    trap - EXIT HUP INT QUIT USR1 USR2
    trap 'kill $lk_sleep $lk_curl 2>/dev/null; exit 1' TERM
    lk_curl=''
    [ "$2" -eq 0 ] || interruptible_sleep $(($2 / 100))
    request acquire $(($3 + 1200)) "wait=${3}0ms" ${lk_lease:+"lease=${lk_lease}0ms"} \
      ${lk_note:+"note=$lk_note"} |
      curl -q --config - >"$lk_folder/$1" 2>&1 &
    lk_curl=$!
    wait "$lk_curl"
  ) </dev/null >/dev/null &
}
# Sets lk_request_wait to the wait of a request that is sent after the delay $1.
time_left() {
  lk_request_wait=2000
  if [ -n "$lk_wait" ]; then
    now
    lk_rest=$((lk_began + lk_wait - lk_now - $1))
    [ "$lk_rest" -ge "$lk_request_wait" ] || lk_request_wait=$lk_rest
    [ "$lk_request_wait" -ge 0 ] || lk_request_wait=0
  fi
}
is_over() { [ -n "$lk_wait" ] && now && [ "$lk_now" -ge $((lk_began + lk_wait)) ]; }
# Sends acquires until the lock is granted, the time is over, or an error is permanent.
wait_for_lock() {
  now
  lk_began=$lk_now lk_queued='' lk_has_answered='' lk_failing='' lk_printed='' lk_print_at=0 lk_pause=1 lk_number=0 lk_may_hold=perhaps
  while :; do
    if [ -z "$lk_next" ]; then
      lk_request_wait=0
      # The first request does not wait, and returns the holder.
      [ -z "$lk_queued" ] || time_left 0
      lk_number=$((lk_number + 1))
      now
      lk_sent=$lk_now
      acquire "$lk_number" 0 "$lk_request_wait"
      lk_request=$!
    else
      lk_request=$lk_next lk_next=''
    fi
    # The next request is sent before this one ends, and takes over its position: a queue entry
    # without an open request is passed over.
    lk_current=$lk_request_wait
    time_left 1500
    if [ -n "$lk_queued" ] && [ "$lk_request_wait" -gt 0 ]; then
      acquire $((lk_number + 1)) 1500 "$lk_request_wait"
      lk_next=$!
    fi
    wait "$lk_request"
    lk_exit=$?
    lk_request=''
    [ -d "$lk_folder" ] || fail "the folder $lk_folder was removed during the wait"
    parse_answer "$lk_exit" "$(cat "$lk_folder/$lk_number")"
    rm -f "$lk_folder/$lk_number"
    # Retry an unknown host once; after a first answer, retry it indefinitely.
    if [ "$lk_verdict" = unknown ]; then
      lk_verdict=later
      [ -n "$lk_has_answered" ] || [ -z "$lk_failing" ] || lk_verdict=never
    fi
    case $lk_verdict in
      yes) break ;;
      no)
        explain
        if is_over; then
          message "$lk_name $lk_refusal"
          exit 75
        fi
        now
        if [ "$lk_printed" != "$lk_refusal" ] || [ "$lk_now" -ge "$lk_print_at" ]; then
          lk_waited=$(((lk_now - lk_began) / 100))
          [ "$lk_waited" -gt 0 ] && lk_waited=" for $lk_waited s" || lk_waited=''
          message "waiting for $lk_name$lk_waited: it $lk_refusal"
          lk_printed=$lk_refusal lk_print_at=$((lk_now + 30000))
        fi
        lk_queued=yes lk_has_answered=yes lk_failing='' lk_pause=1
        if [ -n "$lk_next" ]; then
          case $lk_body in
            *'"reason":"replaced"'*) lk_number=$((lk_number + 1)) && continue ;;
          esac
        fi
        # A draining server refuses at once.
        [ $((lk_now - lk_sent)) -ge 50 ] || [ "$lk_current" -eq 0 ] || interruptible_sleep 1
        ;;
      later)
        if is_over; then fail "$lk_reason"; fi
        [ -n "$lk_failing" ] || message "$lk_reason; retrying"
        [ "$lk_status" = 000 ] || [ -z "$lk_status" ] || lk_has_answered=yes
        lk_failing=yes
        interruptible_sleep "$lk_pause"
        [ "$lk_pause" -ge 4 ] || lk_pause=$((lk_pause + 1))
        ;;
      *) lk_may_hold='' && fail "$lk_reason" ;;
    esac
    # The answer came before the next request was sent.
    [ -z "$lk_next" ] || kill "$lk_next" 2>/dev/null
    lk_next=''
  done
  [ -z "$lk_next" ] || kill "$lk_next" 2>/dev/null
}
# Starts the helpers for the grant.
start_helpers() {
  lk_next='' lk_phase=starting
  json_field fencing_token
  lk_fence=$lk_field
  json_field expires_at
  lk_expires_at=$lk_field
  json_field lease_ms
  lk_lease=$((lk_field / 10))
  [ "$lk_lease" -ge 600 ] || fail "the account's lease is shorter than 6s: set LOCKABLE_LEASE"
  schedule
  now
  if [ $((lk_now - lk_sent)) -ge $((lk_lease / 10)) ]; then
    # The lease began at the hand-over, whose time is unknown here. A heartbeat restarts it.
    lk_sent=$lk_now
    send heartbeat $((lk_lease / 6)) "lease=${lk_lease}0ms" "fencing_token=$lk_fence"
    [ "$lk_verdict" = yes ] || fail "the lock was granted, but its first heartbeat failed: $lk_reason"
    json_field expires_at
    lk_expires_at=$lk_field
  fi
  [ -z "$lk_pending_signal" ] || exit $((128 + lk_pending_signal))
  write_sent
  # Waits until both helpers have written their process ids.
  lk_tries=$(helper guard && helper renewer)
  if [ -z "$lk_tries" ] || ! partner renewer || ! partner guard; then
    fail "cannot start the processes that renew the lease"
  fi
}

# Runs the command.
# While the command runs in the background, this shell handles signals at once. A background
# process ignores INT and QUIT until GNU env restores their default action. Without GNU env, the
# command runs in the foreground if there is a terminal that may send them; TERM then kills this
# shell, and the renewer ends the command.
choose_mode() {
  lk_env_options='' lk_rest=0 lk_fd=9 lk_has_gnu_env='' lk_mode=background
  { while read -r lk_key lk_rest; do
    [ "$lk_key" != SigIgn: ] || break
  done </proc/$$/status; } 2>/dev/null
  lk_ignored=$((0x0${lk_rest#"${lk_rest%?}"}))
  # Signals that the caller ignores, as with nohup(1), stay ignored.
  [ $((lk_ignored & 2)) -ne 0 ] || lk_env_options=--default-signal=INT
  [ $((lk_ignored & 4)) -ne 0 ] || lk_env_options="$lk_env_options --default-signal=QUIT"
  # The command's standard input needs a descriptor that the caller does not use.
  while [ "$lk_fd" -gt 2 ] && (eval ": <&$lk_fd") 2>/dev/null; do lk_fd=$((lk_fd - 1)); done
  # shellcheck disable=SC2086 # To be split.
  if [ -e /proc/self/stat ] && env $lk_env_options true 2>/dev/null; then
    lk_has_gnu_env=yes
  elif (: </dev/tty) 2>/dev/null; then
    lk_mode=foreground
  fi
  [ "$lk_fd" -gt 2 ] || lk_mode=foreground
}
# Executes the command in a subshell.
exec_command() {
  trap - EXIT
  umask "$lk_mask"
  case $lk_closed in *0*) exec <&- ;; esac
  case $lk_closed in *1*) exec >&- ;; esac
  case $lk_closed in *2*) exec 2>&- ;; esac
  set +u
  LOCKABLE_LOCK=$lk_name LOCKABLE_FENCING_TOKEN=$lk_fence LOCKABLE_HOLDER=$lk_holder LOCKABLE_EXPIRES_AT=$lk_expires_at
  export LOCKABLE_LOCK LOCKABLE_FENCING_TOKEN LOCKABLE_HOLDER LOCKABLE_EXPIRES_AT
  # The intermediate shell runs scripts without #!, and names with "=".
  # shellcheck disable=SC2016,SC2086 # The inner shell expands it; to be split.
  [ -z "$lk_has_gnu_env" ] || set -- env $lk_env_options sh -c 'exec "$@"' lockable.sh "$@"
  exec "$@"
}
# Starts a sentinel process, which dies of a signal to the whole group. If it is alive after a
# signal, the signal was for this shell only and must be forwarded. When both helpers are dead, the
# sentinel signals this shell, or ends the command if this shell is dead, too.
watch_group() {
  lk_own=$$
  [ "$lk_mode" = background ] || lk_own=''
  # shellcheck disable=SC2016 # The inner shell expands it.
  (exec_command sh -c '
    ulimit -c 0
    read -r line <"$1/alive"
    mkdir "$1/lost" "$1/orphaned" && kill -s ALRM "$2" && exit
    mkdir "$1/ended"
    read -r line <"$1/command" && kill -s TERM "${line%:*}" && sleep 1 && kill -s KILL "${line%:*}"
    ' lockable-watch "$lk_folder" "$lk_own") </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  read_process $! && lk_sentinel=$lk_id
}
# shellcheck disable=SC2317 # A trap calls it.
on_alarm() {
  # An ALRM from another process or from finish only ends a wait.
  [ "$lk_phase" = running ] && [ -d "$lk_folder/orphaned" ] || return
  lk_pending_signal=14
  message "the processes that renew the lease were killed; the command is ended"
  lk_phase=lost
  now
  lk_kill_at=$((lk_now + lk_grace))
  end_all
  mkdir "$lk_folder/ended"
}
# Starts the time that a TERM leaves to the command; the renewer ends it. A command of another user
# gets no signal and continues under the lock.
# shellcheck disable=SC2317 # Traps call it.
limit_grace() {
  [ ! -e "$lk_folder/kill_at" ] && kill -s 0 "${lk_command%:*}" 2>/dev/null || return
  now
  lk_term_kill_at=$((lk_now + lk_grace))
  printf '%s\n' "$lk_term_kill_at" >"$lk_folder/kill_at"
}
# shellcheck disable=SC2317 # Traps call it.
forward_signal() {
  [ "$1" != TERM ] || limit_grace
  if [ -n "$lk_sentinel" ]; then
    lk_tries=0
    # Wait until the sentinel sleeps again or has died of the signal.
    while is_running "$lk_sentinel" && [ "${lk_state%"${lk_state#?}"}" != S ] && [ "$lk_tries" -lt 10 ]; do
      lk_tries=$((lk_tries + 1))
      sleep "$lk_short"
    done
    if ! is_running "$lk_sentinel"; then
      watch_group
      return
    fi
  fi
  case $lk_has_gnu_env$1 in INT | QUIT) set -- TERM ;; esac
  signal_process "$1" "$lk_command"
}
run_in_foreground() {
  watch_group
  trap - EXIT HUP TERM USR1 USR2
  # Handled after the command has ended; the command gets them, too.
  trap 'lk_pending_signal=2' INT
  trap 'lk_pending_signal=3' QUIT
  (
    read_process "$(exec sh -c 'echo "$PPID"')" && printf '%s\n' "$lk_id" >"$lk_folder/command"
    exec_command "$@"
  )
  lk_code=$?
  trap clean_up EXIT
  for lk_signal in HUP INT QUIT TERM USR1 USR2; do
    # shellcheck disable=SC2064 # To be expanded now.
    trap "on_signal $lk_signal 0" "$lk_signal"
  done
}
run_in_background() {
  trap on_alarm ALRM
  watch_group
  if [ -n "${BASH_VERSION:-}" ]; then
    # bash crashes when it duplicates a descriptor that it reads this script from.
    (exec_command "$@") <&0 &
    lk_child=$!
  else
    eval "exec $lk_fd<&0"
    eval "(exec_command \"\$@\") <&$lk_fd $lk_fd<&- &"
    lk_child=$!
    eval "exec $lk_fd<&-"
  fi
  if read_process "$lk_child"; then
    lk_command=$lk_id
    printf '%s\n' "$lk_command" >"$lk_folder/command"
  fi
  lk_phase=running
  [ -z "$lk_pending_signal" ] || forward_signal "$lk_signal"
  # A signal ends the wait, not the command; in zsh, so does a stop. In bash, a second wait for a
  # child that ended while a signal interrupted the first one never returns.
  lk_tries=0
  while :; do
    lk_pending_signal=''
    wait "$lk_child" 2>/dev/null
    lk_code=$?
    is_running "$lk_command" || break
    lk_tries=$((lk_tries + 1))
    sleep "$lk_short"
  done
}
# Ends the processes that the command left behind, before the lock is released.
finish() {
  lk_phase=ending
  signal_process KILL "$lk_sentinel"
  wait "${lk_sentinel%:*}" 2>/dev/null
  lk_sentinel=''
  now
  lk_kill_at=${lk_term_kill_at:-$((lk_now + lk_grace))}
  if [ -d "$lk_folder/lost" ]; then
    # The helpers end them.
    while [ ! -d "$lk_folder/ended" ] && [ "$lk_now" -lt $((lk_kill_at + 300)) ]; do
      sleep "$lk_short"
      now
    done
  elif [ -z "$lk_leave_background" ]; then
    end_all || lk_may_hold=''
  fi
  if [ "$lk_mode" = background ] && [ -n "$lk_pending_signal${ZSH_VERSION:-}" ]; then
    # Get the exit code of the command instead of the signal's. If bash has dropped it, the renewer
    # ends this wait. zsh returns it only after several waits when a stop came before.
    mkdir "$lk_folder/ending"
    for lk_tries in ${ZSH_VERSION:+1 2} 3; do
      wait "$lk_child" 2>/dev/null
      lk_status=$?
      case $lk_status in -1 | 127 | 142) ;; *) lk_code=$lk_status ;; esac
    done
  fi
  if [ -d "$lk_folder/lost" ]; then
    lk_may_hold='' lk_code=74
  fi
  exit "$lk_code"
}

main() {
  lk_known='' lk_copy=''
  case ${1:-} in
    -h | --help)
      usage
      exit 0
      ;;
    --helper)
      # A helper.
      lk_role=$2 lk_wrapper=$3 lk_folder=$4 lk_holder=$5 lk_fence=$6 lk_lease=$7 lk_sent=$8 lk_path=$9
      lk_copy=$lk_folder/lockable
      read_server
      schedule
      run_helper "$lk_role"
      ;;
    --) shift ;;
    -*) usage_error "there is no option $1" ;;
  esac
  [ -n "${1:-}" ] || usage_error "the lock's name is missing"
  lk_name=$1
  shift
  [ "${1:-}" != -- ] || shift
  [ $# -gt 0 ] || usage_error "the command is missing"
  read_server
  read_lock_settings
  prepare
  wait_for_lock
  start_helpers
  choose_mode
  if [ "$lk_mode" = background ]; then run_in_background "$@"; else run_in_foreground "$@"; fi
  finish
}
# The shell has read the whole file before it runs main, so the file may be replaced meanwhile.
main "$@"
