use clap::Command;
use clap_complete::Shell;

// These functions complete the arguments after `--` as a command line of their own. The scripts of
// `clap_complete` offer only files there, except for zsh.

const BASH_COMMANDS: &str = r#"
_lockable_or_command() {
    local i
    if [[ "${COMP_WORDS[1]}" == run ]]; then
        for ((i = 2; i < COMP_CWORD; i++)); do
            [[ "${COMP_WORDS[i]}" == -- ]] || continue
            if declare -F _comp_command_offset >/dev/null; then
                _comp_command_offset $((i + 1))
            elif declare -F _command_offset >/dev/null; then
                _command_offset $((i + 1))
            elif ((COMP_CWORD == i + 1)); then
                mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
            else
                COMPREPLY=()
            fi
            return
        done
    fi
    _lockable "$@"
}
complete -F _lockable_or_command -o bashdefault -o default lockable
"#;

const FISH_COMMANDS: &str = r#"
function __fish_lockable_command_index
    set -l words (commandline -opc)
    test "$words[2]" = run; and contains -i -- -- $words
end
function __fish_lockable_complete_command
    set -l words (commandline -opc)
    set -l start (math (__fish_lockable_command_index) + 1)
    set -l command
    test $start -gt (count $words); or set command (string escape -- $words[$start..-1])
    complete -C (string join ' ' -- $command (commandline -ct))
end
complete -c lockable -n "__fish_lockable_command_index >/dev/null" -x -a "(__fish_lockable_complete_command)"
"#;

/// Returns the completion script for a shell.
pub fn completions(shell: Shell, command: &mut Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "lockable", &mut script);
    script.extend_from_slice(match shell {
        Shell::Bash => BASH_COMMANDS.as_bytes(),
        Shell::Fish => FISH_COMMANDS.as_bytes(),
        _ => &[],
    });
    script
}
