#!/bin/sh
# Runs a command while it holds a lock of Lockable. Needs a POSIX shell, curl and the
# small programs of any system. `lockable.sh --help` lists the variables and exit codes.
#
# The command stays in the process group and session of its caller, as under flock(1).
# Two helper processes outlive Ctrl-C, Ctrl-Z and the death of this shell, in sessions of
# their own where setsid(1) exists: the keeper renews the lease, and the guard ends the
# command in time when the keeper cannot. If this shell dies, the keeper ends the command
# and releases the lock.
#
# On Linux a process of the command is found by its parents and by LOCKABLE_HOLDER in its
# environment; elsewhere by its parents alone. A process that drops that variable and
# leaves its parents is not found. `lockable run` finds it.
#
# Variables begin with lk_: the command would inherit a change to a variable of its caller.
[ -z "${ZSH_VERSION:-}" ] || emulate sh
# The caller may export SHELLOPTS. A trace (-x) would show the token.
set +efmxC -u
# A closed standard descriptor would be taken by the next file or pipe.
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
  LOCKABLE_CA_FILE     file of certificates (PEM) to trust
  LOCKABLE_NAMESPACE   namespace of the lock; default: that of the token
  LOCKABLE_WAIT        how long to wait for the lock, 0 for not at all; default: for ever
  LOCKABLE_LEASE       how long the lock is held without a heartbeat, at least 6s;
                       default: the lease of the account
  LOCKABLE_OWNER       beginning of the holder's name, to which each run adds host, process
                       and a random number
  LOCKABLE_NOTE        text shown to callers of the same account while the lock is held
Durations: 90 or 90s, 1500ms, 5m, 1.5h, 1d.

COMMAND gets LOCKABLE_LOCK, LOCKABLE_FENCING_TOKEN, LOCKABLE_HOLDER (the holder's name)
and LOCKABLE_EXPIRES_AT (at its start) in its environment.

Exit codes: that of COMMAND; 126 or 127 if it cannot be run; 75 if the lock was not
acquired; 74 if the lock was lost and COMMAND was ended; 69 if no server answered yes or
no; 2 for wrong usage. If a signal ended COMMAND or the wait, lockable.sh dies of it, too.
END
}
say() { printf 'lockable: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 69
}
misused() {
  say "$*"
  usage >&2
  exit 2
}

# Sets lk_now to hundredths of a second on a clock that nobody can set, where there is one.
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
# Sets lk_clean to the characters that the server accepts, at most $1 bytes of them, with $2
# for each other one: $3 is the text. An owner ($2 is "-") has no white space, either.
clean() {
  lk_clean=$3
  # Nothing to do.
  case $3 in *[!A-Za-z0-9._:/@+-]*) ;; *) [ ${#3} -gt "$1" ] || return 0 ;; esac
  lk_clean='' lk_size=0 lk_more=0 lk_byte=''
  for lk_byte in $(printf '%s' "$3" | od -A n -v -t u1); do
    lk_octal="\\0$((lk_byte / 64))$((lk_byte / 8 % 8))$((lk_byte % 8))"
    if [ "$lk_byte" -ge 128 ] && [ "$lk_byte" -lt 192 ]; then
      # Without the first byte of its character.
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
      # What cannot be seen: spaces, joiners, variation selectors, fillers.
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

# Requests. The token is on no command line, which others can read.
quoted() { printf '%s' "$1" | tr -d '\r\n' | sed 's/[\\"]/\\&/g'; }
# Writes curl's configuration for a request: route, hundredths of a second, parameters.
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
ask() {
  lk_output=$(request "$@" | curl -q --config - 2>&1)
  judge $? "$lk_output"
}
# Sets lk_member to a member of the JSON object in lk_body.
member() {
  lk_member=$(printf '%s\n' "$lk_body" |
    sed -nE 's/.*"'"$1"'":("(([^"\\]|\\.)*)"|([^",}]*)).*/\2\4/p' | sed 's/\\\(["\\/]\)/\1/g')
}
# Reads an answer from curl's exit code and output: lk_verdict is yes, no, later, unknown (no
# such host) or never, and lk_words tells people why.
judge() {
  lk_body=$(printf '%s\n' "$2" | sed '$d' | tr -d '\000-\037\177')
  lk_status=${2##*[!0-9]} lk_words=$lk_body
  if [ "$1" -eq 0 ]; then
    case $lk_status in
      200 | 423)
        case $lk_body in
          '{"response":true'*) lk_verdict=yes ;;
          '{"response":false'*) lk_verdict=no ;;
          *) lk_verdict=never lk_words="$lk_url does not answer as a server of Lockable" ;;
        esac
        return
        ;;
      408 | 429 | 5??) lk_verdict=later ;;
      *) lk_verdict=never ;;
    esac
    member title
    lk_words=$lk_member
    member detail
    lk_words="$lk_words: $lk_member"
    member request_id
    lk_words="$lk_words (request $lk_member)"
    [ "$lk_words" != ':  (request )' ] || lk_words="$lk_url answers with status $lk_status, not as a server of Lockable"
    [ "$lk_status" != 401 ] || lk_words="$lk_words; the token is from $lk_source"
    return
  fi
  lk_words=$(printf '%s\n' "$2" | grep -v -e '^000$' -e '^$' | tr '\n' ' ')
  lk_words="$lk_url cannot be reached: ${lk_words% }"
  lk_verdict=later
  case $1 in
    126 | 127) lk_verdict=never lk_words="curl cannot be run: install it, or use lockable run" ;;
    5 | 6) lk_verdict=unknown ;;
    1 | 2 | 3 | 4 | 51 | 53 | 54 | 58 | 59 | 60 | 66 | 77 | 80 | 83 | 90 | 91) lk_verdict=never ;;
    35)
      # A server that restarts ends handshakes, too.
      case $lk_words in *[Rr]eset* | *SYSCALL* | *eof* | *EOF*) ;; *) lk_verdict=never ;; esac
      ;;
  esac
}
# Sets lk_why to the reason of a refusal, to stand behind the lock's name.
explain() {
  member recovering_until
  lk_why="is recovering until $lk_member: the servers may have lost data, and grant no lock before"
  [ -z "$lk_member" ] || return
  member acquired_at
  lk_why="since $lk_member"
  if [ -n "$lk_member" ]; then
    member note
    lk_why="${lk_member:+($lk_member) }$lk_why"
    member owner
    [ "$lk_member" != null ] || lk_member='an unnamed holder of this account'
    lk_why="is held by $lk_member $lk_why"
    return
  fi
  member reason
  case $lk_member in
    held | timed_out | draining | replaced) lk_why='is held by another' ;;
    *) lk_why="is not granted: $lk_member" ;;
  esac
}

# Processes. A process is its id and the time of its start, since ids are used again.
# Sets lk_state and lk_id; fails if there is no such process any more.
look() {
  if [ -e /proc/self/stat ]; then
    { read -r lk_line <"/proc/$1/stat"; } 2>/dev/null || return 1
    lk_pid=$1
    # Behind the program's name, which may have spaces.
    # shellcheck disable=SC2086 # To be split.
    set -- ${lk_line##*) }
    lk_state=$1 lk_parent=$2 lk_id=$lk_pid:${20}
  else
    lk_state=$(ps -o stat= -p "$1") lk_parent='' lk_id=$1:-
  fi
  case $lk_state in '' | Z* | X*) return 1 ;; esac
}
is_running() { [ -n "$1" ] && look "${1%:*}" && [ "$lk_id" = "$1" ]; }
# Sends a signal: its name, the process.
strike() { is_running "$2" && kill -s "$1" "${2%:*}" 2>/dev/null; }
# Sets lk_left to all running processes of the command. lk_known remembers them: the
# parents of those that are left may be gone next time.
scan() {
  { read -r lk_root <"$lk_folder/command"; } 2>/dev/null || lk_root=''
  lk_table='' lk_left=''
  if [ -e /proc/self/stat ]; then
    lk_marked=' '
    # Not every grep reads beyond a NUL. This one looks at all of them in no time.
    if printf 'a\000bc\000' | grep -qF bc; then
      lk_marked=" $(grep -lsF "LOCKABLE_HOLDER=$lk_holder" /proc/[0-9]*/environ | tr '\n' ' ') "
    fi
    for lk_entry in /proc/[0-9]*; do
      look "${lk_entry#/proc/}" || continue
      lk_table="$lk_table $lk_id:$lk_parent"
      # Older than the command, or already known.
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
  # The ids of those in the table that are known, then of their children.
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
  lk_told=' '
  while :; do
    scan
    [ -n "$lk_left" ] || return 0
    now
    for lk_target in $lk_left; do
      if [ "$lk_now" -ge "$lk_kill_at" ]; then
        strike KILL "$lk_target"
        continue
      fi
      case $lk_told in *" $lk_target "*) continue ;; esac
      lk_told="$lk_told$lk_target "
      # A stopped process cannot handle TERM.
      strike TERM "$lk_target"
      strike CONT "$lk_target"
    done
    [ "$lk_now" -lt $((lk_kill_at + 200)) ] || break
    sleep "$lk_short"
  done
  for lk_target in $lk_left; do
    say "process ${lk_target%:*} cannot be ended: it goes on, and the lock is left to its lease"
  done
  return 1
}

# Helpers.
# Starts the keeper or the guard, and prints its process.
helper() {
  [ -f "$lk_copy" ] || lk_copy=''
  if [ -n "$lk_copy" ]; then
    LOCKABLE_AUTH_TOKEN=$lk_token LOCKABLE_TOKEN_FILE='' setsid sh "$lk_copy" --keep "$1" "$lk_wrapper" \
      "$lk_folder" "$lk_holder" "$lk_fence" "$lk_lease" "$lk_sent" "$lk_path" </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  else
    (keep "$1") </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  fi
}
# Runs as the keeper or the guard, until the wrapper kills it.
keep() {
  trap - EXIT
  trap '' HUP INT QUIT TERM TSTP TTIN TTOU USR1 USR2 ALRM PIPE
  lk_next=$((lk_sent + lk_lease / 3)) lk_troubled=''
  look "$(exec sh -c 'echo "$PPID"')"
  # Writers of this pipe: its reader notices when both are gone.
  { exec 9<>"$lk_folder/alive"; } 2>/dev/null
  { printf '%s\n' "$lk_id" >"$lk_folder/$1"; } 2>/dev/null
  printf '%s\n' "$lk_id" 2>/dev/null
  exec >/dev/null
  while :; do
    sleep "$lk_tick"
    if [ "$1" = keeper ]; then
      is_running "$lk_wrapper" || succeed guard
      partner guard || helper guard
      [ ! -d "$lk_folder/ending" ] || strike ALRM "$lk_wrapper"
      now
      [ "$lk_now" -lt "$lk_next" ] || renew
    else
      is_running "$lk_wrapper" || partner keeper || succeed keeper
      { read -r lk_read <"$lk_folder/sent"; } 2>/dev/null && lk_sent=${lk_read:-$lk_sent}
      partner keeper || helper keeper
      now
      [ "$lk_now" -lt $((lk_sent + lk_lease * 3 / 4)) ] || lose $((lk_lease / 12)) "the keeper has not renewed it" keeper
    fi
  done
}
# Whether the other helper is running.
partner() {
  { read -r lk_partner <"$lk_folder/$1"; } 2>/dev/null || lk_partner=''
  is_running "$lk_partner"
}
renew() {
  lk_asked=$lk_now
  ask heartbeat $((lk_lease / 6)) "lease=${lk_lease}0ms" "fencing_token=$lk_fence"
  case $lk_verdict in
    yes)
      lk_sent=$lk_asked lk_next=$((lk_asked + lk_lease / 3)) lk_troubled=''
      record
      return
      ;;
    no)
      member reason
      lose $((lk_lease / 6)) "its heartbeat was refused ($lk_member)" guard
      ;;
  esac
  [ -n "$lk_troubled" ] || say "a heartbeat failed, trying again: $lk_words"
  lk_troubled=yes
  now
  lk_next=$((lk_now + lk_lease / 12))
  # One more would end too late.
  [ $((lk_next + lk_lease / 6)) -le $((lk_sent + lk_lease * 2 / 3)) ] ||
    lose $((lk_sent + lk_lease * 5 / 6 - lk_now)) "no heartbeat was answered: $lk_words" guard
}
# Tells the guard when the last confirmed request was sent.
record() {
  printf '%s\n' "$lk_sent" >"$lk_folder/sent.new" && mv -f "$lk_folder/sent.new" "$lk_folder/sent"
} 2>/dev/null
# Ends the command after a loss: hundredths of a second from TERM to KILL, why, the other helper.
lose() {
  now
  lk_kill_at=$((lk_now + ($1 < 1000 ? $1 : 1000)))
  if mkdir "$lk_folder/lost" 2>/dev/null || [ ! -d "$lk_folder" ]; then
    say "the lock is lost, or may be, and the command is ended: $2"
  fi
  end_all
  mkdir "$lk_folder/ended" 2>/dev/null
  while is_running "$lk_wrapper"; do sleep "$lk_tick"; done
  partner "$3"
  rm -rf "$lk_folder"
  # It may be stopped.
  strike KILL "$lk_partner"
  exit 0
}
# Ends the command after the wrapper has died, and releases the lock.
succeed() {
  scan
  # The wrapper removes the folder last.
  [ -n "$lk_left" ] || [ -d "$lk_folder" ] || exit 0
  say "lockable.sh was killed, and the command is ended"
  now
  lk_kill_at=$((lk_now + lk_grace))
  end_all && ask release 200 "fencing_token=$lk_fence"
  ! partner "$1" || strike KILL "$lk_partner"
  rm -rf "$lk_folder"
  exit 0
}
# Sets the times that follow from the lease.
schedule() {
  lk_grace=$((lk_lease / 6 < 1000 ? lk_lease / 6 : 1000)) lk_tick=1 lk_short=1
  # Not every sleep knows fractions.
  if sleep 0.01 2>/dev/null; then
    lk_short=0.1
    [ "$lk_lease" -ge 3000 ] || lk_tick=0.3
  fi
}

# Settings.
# Reads where the server is, and who asks it.
read_server() {
  lk_url=${LOCKABLE_URL:-}
  while [ "${lk_url%/}" != "$lk_url" ]; do lk_url=${lk_url%/}; done
  case $lk_url in
    '') misused "LOCKABLE_URL is not set" ;;
    [Hh][Tt][Tt][Pp]://?* | [Hh][Tt][Tt][Pp][Ss]://?*) ;;
    *) misused "LOCKABLE_URL is no address: it begins with https:// or http://" ;;
  esac
  if [ -n "${LOCKABLE_TOKEN_FILE:-}" ]; then
    lk_source=$LOCKABLE_TOKEN_FILE
    [ -f "$lk_source" ] || [ -p "$lk_source" ] || misused "LOCKABLE_TOKEN_FILE: there is no file $lk_source"
    lk_token=$(cat "$lk_source") || misused "LOCKABLE_TOKEN_FILE: $lk_source cannot be read"
  else
    lk_source=LOCKABLE_AUTH_TOKEN lk_token=${LOCKABLE_AUTH_TOKEN:-}
  fi
  lk_token=$(printf '%s\n' "$lk_token" | sed -n '1{s/^[[:space:]]*//;s/[[:space:]]*$//;p;}')
  case $lk_token in
    '') misused "there is no token: set LOCKABLE_AUTH_TOKEN or LOCKABLE_TOKEN_FILE" ;;
    *[!A-Za-z0-9_-]*) misused "$lk_source has no token on its first line, but something else" ;;
  esac
  if [ -n "${LOCKABLE_CA_FILE:-}" ] && ! [ -r "$LOCKABLE_CA_FILE" ]; then
    misused "LOCKABLE_CA_FILE: $LOCKABLE_CA_FILE cannot be read"
  fi
}
# Reads how the lock is to be held.
read_hold() {
  lk_wait='' lk_lease=''
  if [ -n "${LOCKABLE_WAIT:-}" ]; then
    duration "$LOCKABLE_WAIT" || misused "LOCKABLE_WAIT is no duration: $LOCKABLE_WAIT"
    lk_wait=$((lk_ms / 10))
  fi
  if [ -n "${LOCKABLE_LEASE:-}" ]; then
    duration "$LOCKABLE_LEASE" || misused "LOCKABLE_LEASE is no duration: $LOCKABLE_LEASE"
    lk_lease=$((lk_ms / 10))
    [ "$lk_lease" -ge 600 ] || misused "LOCKABLE_LEASE is at least 6s here; lockable run takes less"
  fi
  case $lk_name in
    # Dots and slashes, too, which curl and proxies would fold.
    *[!A-Za-z0-9_-]*) lk_path=$(printf '%s' "$lk_name" | od -A n -v -t x1 | tr -d ' \n' | sed 's/../%&/g') ;;
    *) lk_path=$lk_name ;;
  esac
  # Each run is a holder of its own: two runs of one owner would share the lock.
  lk_random=$(od -A n -N 4 -t x1 /dev/urandom 2>/dev/null | tr -d ' \n')
  clean 30 - "$(uname -n)"
  lk_holder=$lk_clean:$$:${lk_random:-$(date +%s)}
  if [ -n "${LOCKABLE_OWNER:-}" ]; then
    clean 80 - "$LOCKABLE_OWNER"
    lk_holder=$lk_clean:$lk_holder
    [ "$lk_clean" = "$LOCKABLE_OWNER" ] || say "LOCKABLE_OWNER is shortened or has characters replaced: $lk_clean"
  fi
  lk_note=${LOCKABLE_NOTE:-}
  clean 500 ' ' "$lk_note"
  if [ "$lk_clean" != "$lk_note" ]; then
    lk_note=$lk_clean
    say "LOCKABLE_NOTE is shortened to 500 bytes or has characters replaced"
  fi
  [ "${LOCKABLE_LOCK:-}" != "$lk_name" ] || say "a run that holds $lk_name has started this one, which waits for it"
}

# The end, whatever the reason.
# shellcheck disable=SC2317 # A trap calls it.
leave() {
  lk_code=$?
  trap - EXIT
  # bash runs it in a subshell, too, that a signal ends.
  if { read -r lk_pid lk_rest </proc/self/stat; } 2>/dev/null && [ "$lk_pid" -ne $$ ]; then exit "$lk_code"; fi
  trap '' HUP INT QUIT PIPE TERM USR1 USR2 ALRM
  for lk_pid in $lk_asking $lk_next $lk_nap ${lk_sentinel%:*}; do kill "$lk_pid" 2>/dev/null; done
  # Each starts the other again.
  for lk_role in keeper guard keeper; do
    partner "$lk_role" || continue
    # With its sleep or curl, where it leads a group.
    kill -s KILL -- "-${lk_partner%:*}" 2>/dev/null || kill -s KILL "${lk_partner%:*}" 2>/dev/null
  done
  # That gives up a position in the queue, too.
  [ -z "$lk_claimed" ] || ask release 200 ${lk_fence:+"fencing_token=$lk_fence"}
  rm -rf "$lk_folder"
  # A shell ends its loop or script when a signal has ended a command, not when a code says so.
  if [ "$lk_code" -gt 128 ] && [ "$lk_code" -le 143 ] && [ "$lk_code" -ne 137 ]; then
    # shellcheck disable=SC3045 # Where there is none, a core of this shell is left.
    ulimit -c 0 2>/dev/null
    trap - $((lk_code - 128))
    # zsh does not die of HUP.
    # shellcheck disable=SC2016 # For that shell.
    [ -z "${ZSH_VERSION:-}" ] || exec sh -c 'kill -"$1" $$; exit "$2"' sh $((lk_code - 128)) "$lk_code"
    kill -$((lk_code - 128)) $$
  fi
  exit "$lk_code"
}
# shellcheck disable=SC2317 # Traps call it.
on_signal() {
  lk_signal=$1 lk_signalled=$2
  case $lk_phase in
    waiting) exit $((128 + $2)) ;;
    running) [ "$1" = PIPE ] || pass_on "$1" ;;
  esac
}
prepare() {
  lk_asking='' lk_next='' lk_nap='' lk_sentinel='' lk_fence='' lk_claimed='' lk_command='' lk_signalled=''
  lk_phase=waiting
  lk_mask=$(umask)
  umask 077
  lk_folder=$(mktemp -d) || fail "there is no place for temporary files"
  trap leave EXIT
  trap 'on_signal HUP 1' HUP
  trap 'on_signal INT 2' INT
  trap 'on_signal QUIT 3' QUIT
  trap 'on_signal TERM 15' TERM
  trap 'on_signal PIPE 13' PIPE
  trap 'on_signal USR1 10' USR1
  trap 'on_signal USR2 12' USR2
  # The helpers run a copy: the file may be replaced while this shell waits.
  if command -v setsid >/dev/null && [ -f "$0" ] && grep -q '^Usage: lockable.sh ' "$0" &&
    cp "$0" "$lk_folder/lockable"; then
    lk_copy=$lk_folder/lockable
  fi
  mkfifo "$lk_folder/alive" || fail "a named pipe cannot be made"
  look $$
  lk_wrapper=$lk_id
}
nap() {
  sleep "$1" &
  lk_nap=$!
  wait "$lk_nap"
  lk_nap=''
}

# Acquires the lock.
# Sends a request in the background, so that signals are handled at once: its number, the
# hundredths of a second until it is sent, and those it waits at the server.
acquire() {
  (
    trap - EXIT HUP INT QUIT USR1 USR2
    trap 'kill $lk_nap $lk_curl 2>/dev/null; exit 1' TERM
    lk_curl=''
    [ "$2" -eq 0 ] || nap $(($2 / 100))
    request acquire $(($3 + 1200)) "wait=${3}0ms" ${lk_lease:+"lease=${lk_lease}0ms"} \
      ${lk_note:+"note=$lk_note"} |
      curl -q --config - >"$lk_folder/$1" 2>&1 &
    lk_curl=$!
    wait "$lk_curl"
  ) </dev/null >/dev/null &
}
# Sets lk_patience to how long one request waits that is sent after $1.
time_left() {
  lk_patience=2000
  if [ -n "$lk_wait" ]; then
    now
    lk_rest=$((lk_began + lk_wait - lk_now - $1))
    [ "$lk_rest" -ge "$lk_patience" ] || lk_patience=$lk_rest
    [ "$lk_patience" -ge 0 ] || lk_patience=0
  fi
}
is_over() { [ -n "$lk_wait" ] && now && [ "$lk_now" -ge $((lk_began + lk_wait)) ]; }
# Asks until the lock is granted, or there is no use in asking.
wait_for_lock() {
  now
  lk_began=$lk_now lk_queued='' lk_heard='' lk_troubled='' lk_told='' lk_tell_at=0 lk_pause=1 lk_number=0 lk_claimed=perhaps
  while :; do
    if [ -z "$lk_next" ]; then
      lk_patience=0
      # The first one finds out who holds it.
      [ -z "$lk_queued" ] || time_left 0
      lk_number=$((lk_number + 1))
      now
      lk_sent=$lk_now
      acquire "$lk_number" 0 "$lk_patience"
      lk_asking=$!
    else
      lk_asking=$lk_next lk_next=''
    fi
    # The next request is sent before this one ends, and takes over its position: while none
    # is open, others are served first.
    lk_current=$lk_patience
    time_left 1500
    if [ -n "$lk_queued" ] && [ "$lk_patience" -gt 0 ]; then
      acquire $((lk_number + 1)) 1500 "$lk_patience"
      lk_next=$!
    fi
    wait "$lk_asking"
    lk_exit=$?
    lk_asking=''
    [ -d "$lk_folder" ] || fail "$lk_folder has been removed"
    judge "$lk_exit" "$(cat "$lk_folder/$lk_number")"
    rm -f "$lk_folder/$lk_number"
    # A host that was found once will be found again.
    if [ "$lk_verdict" = unknown ]; then
      lk_verdict=later
      [ -n "$lk_heard" ] || [ -z "$lk_troubled" ] || lk_verdict=never
    fi
    case $lk_verdict in
      yes) break ;;
      no)
        explain
        if is_over; then
          say "$lk_name $lk_why"
          exit 75
        fi
        now
        if [ "$lk_told" != "$lk_why" ] || [ "$lk_now" -ge "$lk_tell_at" ]; then
          lk_waited=$(((lk_now - lk_began) / 100))
          [ "$lk_waited" -gt 0 ] && lk_waited=" for $lk_waited s" || lk_waited=''
          say "waiting for $lk_name$lk_waited: it $lk_why"
          lk_told=$lk_why lk_tell_at=$((lk_now + 30000))
        fi
        lk_queued=yes lk_heard=yes lk_troubled='' lk_pause=1
        if [ -n "$lk_next" ]; then
          case $lk_body in
            *'"reason":"replaced"'*) lk_number=$((lk_number + 1)) && continue ;;
          esac
        fi
        # A server that is about to stop refuses at once.
        [ $((lk_now - lk_sent)) -ge 50 ] || [ "$lk_current" -eq 0 ] || nap 1
        ;;
      later)
        if is_over; then fail "$lk_words"; fi
        [ -n "$lk_troubled" ] || say "$lk_words; trying again"
        [ "$lk_status" = 000 ] || [ -z "$lk_status" ] || lk_heard=yes
        lk_troubled=yes
        nap "$lk_pause"
        [ "$lk_pause" -ge 4 ] || lk_pause=$((lk_pause + 1))
        ;;
      *) lk_claimed='' && fail "$lk_words" ;;
    esac
    # It was answered before the next one was sent.
    [ -z "$lk_next" ] || kill "$lk_next" 2>/dev/null
    lk_next=''
  done
  [ -z "$lk_next" ] || kill "$lk_next" 2>/dev/null
}
# Starts the helpers with what was granted.
secure() {
  lk_next='' lk_phase=starting
  member fencing_token
  lk_fence=$lk_member
  member expires_at
  lk_expires_at=$lk_member
  member lease_ms
  lk_lease=$((lk_member / 10))
  [ "$lk_lease" -ge 600 ] || fail "the account's lease is shorter than 6s: set LOCKABLE_LEASE"
  schedule
  now
  if [ $((lk_now - lk_sent)) -ge $((lk_lease / 10)) ]; then
    # The lease counts from when the lock was handed over. A heartbeat starts it anew.
    lk_sent=$lk_now
    ask heartbeat $((lk_lease / 6)) "lease=${lk_lease}0ms" "fencing_token=$lk_fence"
    [ "$lk_verdict" = yes ] || fail "the lock was granted, but its first heartbeat failed: $lk_words"
    member expires_at
    lk_expires_at=$lk_member
  fi
  [ -z "$lk_signalled" ] || exit $((128 + lk_signalled))
  record
  # Waits until both have written who they are.
  lk_tries=$(helper guard && helper keeper)
  if [ -z "$lk_tries" ] || ! partner keeper || ! partner guard; then
    fail "the process that renews the lease cannot be started"
  fi
}

# Runs the command.
# In the background this shell handles signals at once. But what a shell starts there ignores
# INT and QUIT, until GNU env undoes that. Without it, the command runs in the foreground if
# there is a terminal that may send them. TERM to this shell then kills it, and the keeper
# ends the command.
choose_mode() {
  lk_undo='' lk_rest=0 lk_fd=9 lk_is_undone='' lk_mode=background
  { while read -r lk_key lk_rest; do
    [ "$lk_key" != SigIgn: ] || break
  done </proc/$$/status; } 2>/dev/null
  lk_ignored=$((0x0${lk_rest#"${lk_rest%?}"}))
  # What the caller ignores, as with nohup(1), stays ignored.
  [ $((lk_ignored & 2)) -ne 0 ] || lk_undo=--default-signal=INT
  [ $((lk_ignored & 4)) -ne 0 ] || lk_undo="$lk_undo --default-signal=QUIT"
  # The command's standard input needs a descriptor that the caller does not use.
  while [ "$lk_fd" -gt 2 ] && (eval ": <&$lk_fd") 2>/dev/null; do lk_fd=$((lk_fd - 1)); done
  # shellcheck disable=SC2086 # To be split.
  if [ -e /proc/self/stat ] && env $lk_undo true 2>/dev/null; then
    lk_is_undone=yes
  elif (: </dev/tty) 2>/dev/null; then
    lk_mode=foreground
  fi
  [ "$lk_fd" -gt 2 ] || lk_mode=foreground
}
# Becomes the command, in a subshell.
become() {
  trap - EXIT
  umask "$lk_mask"
  case $lk_closed in *0*) exec <&- ;; esac
  case $lk_closed in *1*) exec >&- ;; esac
  case $lk_closed in *2*) exec 2>&- ;; esac
  set +u
  LOCKABLE_LOCK=$lk_name LOCKABLE_FENCING_TOKEN=$lk_fence LOCKABLE_HOLDER=$lk_holder LOCKABLE_EXPIRES_AT=$lk_expires_at
  export LOCKABLE_LOCK LOCKABLE_FENCING_TOKEN LOCKABLE_HOLDER LOCKABLE_EXPIRES_AT
  # The shell in between runs scripts without #!, and names with "=".
  # shellcheck disable=SC2016,SC2086 # For that shell; to be split.
  [ -z "$lk_is_undone" ] || set -- env $lk_undo sh -c 'exec "$@"' lockable.sh "$@"
  exec "$@"
}
# Starts a process that gets the signals that are sent to the whole group: whether it is alive
# tells whether a signal was for this shell alone, and has to be passed on. When both helpers
# have been killed it tells this shell, or ends the command if that is dead, too.
watch_group() {
  lk_own=$$
  [ "$lk_mode" = background ] || lk_own=''
  # shellcheck disable=SC2016 # For that shell.
  (become sh -c '
    ulimit -c 0
    read -r line <"$1/alive"
    mkdir "$1/lost" "$1/orphaned" && kill -s ALRM "$2" && exit
    mkdir "$1/ended"
    read -r line <"$1/command" && kill -s TERM "${line%:*}" && sleep 1 && kill -s KILL "${line%:*}"
    ' lockable-watch "$lk_folder" "$lk_own") </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  look $! && lk_sentinel=$lk_id
}
# shellcheck disable=SC2317 # A trap calls it.
on_alarm() {
  # Signals of others, and of finish, only end a wait.
  [ "$lk_phase" = running ] && [ -d "$lk_folder/orphaned" ] || return
  lk_signalled=14
  say "the processes that renew the lease were killed, and the command is ended"
  lk_phase=lost
  now
  lk_kill_at=$((lk_now + lk_grace))
  end_all
  mkdir "$lk_folder/ended"
}
# shellcheck disable=SC2317 # Traps call it.
pass_on() {
  if [ -n "$lk_sentinel" ]; then
    lk_tries=0
    # It sleeps, unless a signal is about to end it.
    while is_running "$lk_sentinel" && [ "${lk_state%"${lk_state#?}"}" != S ] && [ "$lk_tries" -lt 10 ]; do
      lk_tries=$((lk_tries + 1))
      sleep "$lk_short"
    done
    if ! is_running "$lk_sentinel"; then
      watch_group
      return
    fi
  fi
  case $lk_is_undone$1 in INT | QUIT) set -- TERM ;; esac
  strike "$1" "$lk_command"
}
run_in_foreground() {
  watch_group
  trap - EXIT HUP TERM USR1 USR2
  # Handled after the command has ended, which gets them, too.
  trap 'lk_signalled=2' INT
  trap 'lk_signalled=3' QUIT
  (
    look "$(exec sh -c 'echo "$PPID"')" && printf '%s\n' "$lk_id" >"$lk_folder/command"
    become "$@"
  )
  lk_code=$?
  trap leave EXIT
  for lk_signal in HUP INT QUIT TERM USR1 USR2; do
    # shellcheck disable=SC2064 # To be expanded now.
    trap "on_signal $lk_signal 0" "$lk_signal"
  done
}
run_in_background() {
  trap on_alarm ALRM
  watch_group
  if [ -n "${BASH_VERSION:-}" ]; then
    # It crashes if it reads this script from there and copies it.
    (become "$@") <&0 &
    lk_child=$!
  else
    eval "exec $lk_fd<&0"
    eval "(become \"\$@\") <&$lk_fd $lk_fd<&- &"
    lk_child=$!
    eval "exec $lk_fd<&-"
  fi
  if look "$lk_child"; then
    lk_command=$lk_id
    printf '%s\n' "$lk_command" >"$lk_folder/command"
  fi
  lk_phase=running
  [ -z "$lk_signalled" ] || pass_on "$lk_signal"
  # A signal ends the wait, not the command; in zsh, so does a stop. In bash nothing may wait
  # for a child that ended while a signal interrupted a wait for it: that lasts for ever.
  lk_tries=0
  while :; do
    lk_signalled=''
    wait "$lk_child" 2>/dev/null
    lk_code=$?
    is_running "$lk_command" || break
    lk_tries=$((lk_tries + 1))
    sleep "$lk_short"
  done
}
# Ends what the command has left behind, before anybody else gets the lock.
finish() {
  lk_phase=ending
  strike KILL "$lk_sentinel"
  wait "${lk_sentinel%:*}" 2>/dev/null
  lk_sentinel=''
  now
  lk_kill_at=$((lk_now + lk_grace))
  if [ -d "$lk_folder/lost" ]; then
    # The helpers do.
    while [ ! -d "$lk_folder/ended" ] && [ "$lk_now" -lt $((lk_kill_at + 300)) ]; do
      sleep "$lk_short"
      now
    done
  else
    end_all || lk_claimed=''
  fi
  if [ "$lk_mode" = background ] && [ -n "$lk_signalled${ZSH_VERSION:-}" ]; then
    # The code of the command rather than that of the signal. If bash has forgotten it, the
    # keeper ends this wait. zsh knows it some waits after a stop.
    mkdir "$lk_folder/ending"
    for lk_tries in ${ZSH_VERSION:+1 2} 3; do
      wait "$lk_child" 2>/dev/null
      lk_status=$?
      case $lk_status in -1 | 127 | 142) ;; *) lk_code=$lk_status ;; esac
    done
  fi
  if [ -d "$lk_folder/lost" ]; then
    lk_claimed='' lk_code=74
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
    --keep)
      # A helper.
      lk_role=$2 lk_wrapper=$3 lk_folder=$4 lk_holder=$5 lk_fence=$6 lk_lease=$7 lk_sent=$8 lk_path=$9
      lk_copy=$lk_folder/lockable
      read_server
      schedule
      keep "$lk_role"
      ;;
    --) shift ;;
    -*) misused "there is no option $1" ;;
  esac
  [ -n "${1:-}" ] || misused "the lock's name is missing"
  lk_name=$1
  shift
  [ "${1:-}" != -- ] || shift
  [ $# -gt 0 ] || misused "the command is missing"
  read_server
  read_hold
  prepare
  wait_for_lock
  secure
  choose_mode
  if [ "$lk_mode" = background ]; then run_in_background "$@"; else run_in_foreground "$@"; fi
  finish
}
# All of this file has been read by now: it may be replaced while this shell waits.
main "$@"
