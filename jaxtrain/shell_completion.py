"""Scripts that complete the stages of ./launch/run, their flags and the values of flags in bash, zsh and fish."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from jaxtrain.config import leaves

DESCRIPTION = 100  # characters of a flag's help that a shell shows
# bash splits a word at = and :, where COMP_WORDBREAKS has them, and a reply stands for what follows the last of them.
# -o nospace: `--lr=` and folders are followed by no space; other replies end with their own. bash 3.2 is macOS's.
BASH = """\
_jaxtrain() {
  local line=${COMP_LINE:0:COMP_POINT} flags='' values='' reply
  local word=${line##*[[:space:]]} IFS=$'\\n'
  COMPREPLY=()
  if [ "$COMP_CWORD" -le 1 ]; then
    reply=$(compgen -W "$(printf '%s \\n' STAGES --help '--completion')" -- "$word")
    COMPREPLY=($reply)
    return
  fi
  case ${COMP_WORDS[1]} in
    --completion) flags='SHELLS' ;;
CASES
  esac
  case $word in
    --*=*)
      case ${COMP_WORDS[1]}${word%%=*} in
VALUES
      esac
      _jaxtrain_value "${word%%=*}=" "${word#*=}" "$values"
      ;;
    *) COMPREPLY=($(compgen -W "$(printf '%s\\n' $flags)" -- "$word")) ;;
  esac
}
# A value, of `$3` where the flag has a list, else a file, perhaps after the kind of a source, jsonl: or another one.
_jaxtrain_value() {
  local start=$1 value=$2 file i
  if [ -n "$3" ]; then
    COMPREPLY=($(compgen -W "$(printf '%s \\n' $3)" -- "$value"))
  else
    case $value in
      *[:,]*) start=$start${value%"${value##*[:,]}"} value=${value##*[:,]} ;;
    esac
    for file in $(compgen -f -- "$value"); do
      if [ -d "$file" ]; then COMPREPLY+=("$file/"); else COMPREPLY+=("$file "); fi
    done
  fi
  case $COMP_WORDBREAKS in
    *=*) case $COMP_WORDBREAKS in
      *:*) start='' ;;
      *) start=${start#*=} ;;
    esac ;;
  esac
  for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=$start${COMPREPLY[i]}; done
}
complete -o nospace -F _jaxtrain PROGRAM launch/run ./launch/run
"""
ZSH = """\
#compdef PROGRAM
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_jaxtrain() {
  _compskip=all
  local -a stages
  if (( CURRENT == 2 )); then
    stages=(
STAGES
    )
    _describe -t stages stage stages
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
CASES
  esac
}
# A file, perhaps after the kind of a source, jsonl: or another one.
_jaxtrain_file() {
  compset -P '*[:,]'
  _files "$@"
}
compdef _jaxtrain PROGRAM launch/run
compdef -p _jaxtrain '*/launch/run'
"""
FISH = """\
function __jaxtrain_stage
  set -l words (commandline -opc)
  test (count $words) -gt 1; and test $words[2] = $argv[1]
end
function __jaxtrain_first
  test (count (commandline -opc)) -eq 1
end"""


@dataclasses.dataclass(frozen=True)
class FlagCompletion:
    """A flag: its name, the start of its help, and its values where they are a list; a bool's default."""

    name: str
    about: str
    values: tuple[str, ...] = ()
    switch: bool | None = None

    def typed(self) -> str:
        """What stands on a command line before a value, if one is needed."""
        if self.switch is None:
            return f"--{self.name}="
        return f"--no{self.name}" if self.switch else f"--{self.name}"


@dataclasses.dataclass(frozen=True)
class CommandCompletion:
    """A stage: its name, the first line of its docstring, and its flags."""

    name: str
    about: str
    flags: tuple[FlagCompletion, ...]


def of_class(name: str, about: str, cls: type) -> CommandCompletion:
    """The completion of a command with this config class."""
    found = [
        FlagCompletion(
            "help", "Show what it does, examples, and the flags that are often used", switch=False
        ),
        FlagCompletion("helpfull", "Show all flags", switch=False),
    ]
    for _, field, default in leaves(cls):
        help_text = " ".join(field.metadata["help"].split())
        first = help_text if len(help_text) <= DESCRIPTION else f"{help_text[: DESCRIPTION - 1]}…"
        switch = default if isinstance(default, bool) else None
        found.append(FlagCompletion(field.name, first, tuple(field.metadata["choices"]), switch))
    return CommandCompletion(name, about, tuple(found))


def bash(commands: Sequence[CommandCompletion], program: str) -> str:
    """The script for bash 3.2 or newer; `program` is the absolute path of launch/run."""
    cases, values = [], []
    for command in commands:
        typed = "\n".join(f"{flag.typed()}{'' if flag.switch is None else ' '}" for flag in command.flags)
        cases.append(f"    {command.name}) flags={_quoted(typed)} ;;")
        values += [
            f"        {command.name}--{flag.name}) values={_quoted(chr(10).join(flag.values))} ;;"
            for flag in command.flags
            if flag.values
        ]
    names = " ".join(command.name for command in commands)
    parts = {
        "CASES": "\n".join(cases),
        "VALUES": "\n".join(values),
        "SHELLS": "\n".join(f"{name} " for name in SHELLS),
    }
    return _filled(BASH, STAGES=names, PROGRAM=_quoted(program), **parts)


def zsh(commands: Sequence[CommandCompletion], program: str) -> str:
    """The script for zsh."""
    stages = "\n".join(f"      {_quoted(f'{command.name}:{command.about}')}" for command in commands)
    cases = []
    for command in commands:
        specs = [_quoted(_zsh_spec(flag)) for flag in command.flags]
        cases.append(f"    {command.name}) _arguments {' '.join(specs)} ;;")
    return _filled(ZSH, STAGES=stages, CASES="\n".join(cases), PROGRAM=_quoted(program))


def _zsh_spec(flag: FlagCompletion) -> str:
    about = re.sub(r"([\\\[\]:])", r"\\\1", flag.about)
    if flag.switch is not None:
        return f"{flag.typed()}[{about}]"
    action = f"({' '.join(flag.values)})" if flag.values else "_jaxtrain_file"
    return f"--{flag.name}=[{about}]:{flag.name}:{action}"


def fish(commands: Sequence[CommandCompletion], program: str) -> str:
    """The script for fish, whose `complete -p` compares absolute paths."""
    start = f"complete -p {_fish(program)}"
    lines = [FISH]
    for command in commands:
        lines.append(f"{start} -f -n __jaxtrain_first -a {_fish(command.name)} -d {_fish(command.about)}")
    for command in commands:
        when = _fish(f"__jaxtrain_stage {command.name}")
        for flag in command.flags:
            option = f"{start} -n {when} -l {flag.typed().strip('-=')} -d {_fish(flag.about)}"
            values = f" -x -a {_fish(' '.join(flag.values))}" if flag.values else " -r"
            lines.append(option + (values if flag.switch is None else ""))
    return "\n".join(lines) + "\n"


SHELLS: Mapping[str, Callable[[Sequence[CommandCompletion], str], str]] = {
    "bash": bash,
    "zsh": zsh,
    "fish": fish,
}


def _filled(template: str, **parts: str) -> str:
    return re.sub("|".join(parts), lambda match: parts[match[0]], template)


def _quoted(text: str) -> str:
    """A word of a shell in single quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    return "'" + re.sub(r"([\\'])", r"\\\1", text) + "'"
