"""`mc-chat completion`: what makes a shell complete our command lines."""

import argparse

from app.arguments import Commands
from app.completion import Candidate, candidates
from app.render import safe_text

_BASH = """\
_mc_chat() {
    local words=("${COMP_WORDS[@]:1:COMP_CWORD}") IFS=$'\\n'
    COMPREPLY=($(mc-chat completion bash -- "${words[@]}" 2>/dev/null))
}
complete -o default -F _mc_chat mc-chat
"""
_ZSH = """\
#compdef mc-chat
_mc_chat() {
    local -a found
    found=("${(@f)$(mc-chat completion zsh -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then _describe mc-chat found; else _files; fi
}
if [[ "$funcstack[1]" == _mc_chat ]]; then _mc_chat; else compdef _mc_chat mc-chat; fi
"""
_FISH = """\
function _mc_chat
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found (mc-chat completion fish -- $words[2..-1] "$current" 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path "$current"
    end
end
complete -c mc-chat -f -a '(_mc_chat)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "completion",
        help="print what makes a shell complete mc-chat",
        description="Print a script that makes a shell complete commands, options and the names "
        'of models. For bash, a line in ~/.bashrc: `eval "$(mc-chat completion bash)"`. For '
        'zsh, in ~/.zshrc behind compinit: `eval "$(mc-chat completion zsh)"`. For fish: '
        "`mc-chat completion fish > ~/.config/fish/completions/mc-chat.fish`.",
    )
    parser.add_argument("shell", metavar="SHELL", choices=tuple(_SCRIPTS), help="bash, zsh or fish")
    parser.add_argument(
        "words",
        metavar="WORD",
        nargs="*",
        help="behind --, as the script calls it: what the last of these words could become",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the script, or what completes the words."""
    if not options.words:
        print(_SCRIPTS[options.shell], end="")
        return
    from app.cli import parser  # it is made of the commands, this one too

    for found in candidates(parser(), options.words):
        print(_line(options.shell, found))


def _line(shell: str, found: Candidate) -> str:
    """As the shell's script reads it."""
    word, words = (" ".join(safe_text(text).split()) for text in (found.word, found.help))
    if shell == "bash" or not words:
        return word.replace(":", "\\:") if shell == "zsh" else word
    if shell == "zsh":
        return f"{word.replace(':', chr(92) + ':')}:{words}"
    return f"{word}\t{words}"
