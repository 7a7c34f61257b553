use clap::Command;
use clap_complete::Shell;

/// Completes the arguments after `--` as a command line of their own. The script of
/// `clap_complete` offers only files there.
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

/// Returns the completion script for a shell.
pub fn completions(shell: Shell, command: &mut Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "lockable", &mut script);
    if shell == Shell::Bash {
        script.extend_from_slice(BASH_COMMANDS.as_bytes());
    }
    script
}
