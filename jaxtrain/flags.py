"""A stage's config as command-line flags: the flags generated from it, their checks, and the launch."""

import dataclasses
import math
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from jaxtrain import flag_errors, flag_help, full_disk, signals
from jaxtrain.config import BUCKETS, HUB, ConfigError, ConfigT, Failure, is_bucket_error, leaves

# A command's config class, or what makes it of the command line (plan has the flags of the stage that --stage names).
ConfigClass = type | Callable[[list[str]], type]

# A path with a scheme: the whole value, or what follows the kind of a source, KIND:PATH, an option's =, or a comma.
_REMOTE = re.compile(r"(?:^|[,:=])([A-Za-z][A-Za-z0-9+.-]*):(/+)")
_WEB = ("http", "https")  # of endpoints, where a flag's help or default has one
_TEXTS = ("prompt", "stop", "system", "truncate_at")  # flags whose value may be any text
_REMEDIES = {
    "file": "write the path without it",
    "http": "fetch the file, and name it",
    "https": "fetch the file, and name it",
}


def _define(cls: type) -> flags.FlagValues:
    values = flags.FlagValues()
    kinds = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for part, field, default in leaves(cls):
        if field.name in values:
            raise AssertionError(f"two fields are called {field.name}: a flag's name has one meaning")
        choices = field.metadata["choices"]
        text = field.metadata["help"] + (f" ({', '.join(choices)})" if choices else "")
        kinds[type(default)](field.name, default, text, flag_values=values, module_name=part)
    # As a string flag that needs no value: --help, and --help=WORD.
    search = flags.Flag(flags.ArgumentParser(), None, "help", "", "Show this", short_name="h", boolean=True)
    flags.DEFINE_flag(search, flag_values=values, module_name="other")
    flags.DEFINE_bool("helpfull", False, "Show all flags", flag_values=values, module_name="other")
    return values


def class_of(cls: ConfigClass, argv: list[str]) -> type:
    """The config class of a command line."""
    return cls if isinstance(cls, type) else cls(argv)


def from_flags(cls: ConfigClass, argv: list[str]) -> ConfigT | None:
    """The config of a command line; None for --help. `argv` is without the program's name.

    A group whose `derived` sets flags that follow from its own does so here, where it is known which ones are typed.
    """
    cls = class_of(cls, argv)
    values, search = _parsed(cls, argv)
    if search or values.helpfull:
        return None
    given = {field.name: values[field.name].value for _, field, _ in leaves(cls)}
    usual = cls()
    for part in dataclasses.fields(cls):
        derived = getattr(getattr(usual, part.name), "derived", None)
        given |= derived(given, lambda name: values[name].present > 0) if derived else {}
    if "warmup" in given and not values["warmup"].present:
        given["warmup"] = _scaled_warmup(given["warmup"], given["steps"])
    config = _build(cls, given)
    _check_local(config)
    return config


def _parsed(cls: type, argv: list[str]) -> tuple[flags.FlagValues, str]:
    """The flags of a command line, and the word that --help searches, `true` where there is none."""
    values = _define(cls)
    try:
        rest = values(["", *argv])[1:]
    except (flags.Error, ValueError) as error:  # absl's of --nodry_run=3 is none of its own
        message = flag_errors.message(error, {field.name: default for _, field, default in leaves(cls)})
        raise ConfigError(f"{message} (--helpfull lists the flags)") from error
    search = (values.help or "true") if values["help"].present and values.help != "false" else ""
    if rest and search == "true":  # --help WORD
        return values, " ".join(rest)
    if rest:
        raise ConfigError(f"{rest[0]!r} is not a flag: write --name=value (--helpfull lists the flags)")
    return values, search


def _scaled_warmup(warmup: int, steps: int) -> int:
    """A default warm-up, a tenth of --steps where it would not end before them."""
    if not 1 <= steps <= warmup:
        return warmup
    if os.environ.get("JAXTRAIN_PROCESS_ID", "0") == "0":  # one of several processes prints it
        print(
            f"--warmup: {steps // 10}, a tenth of --steps={steps}, as the default {warmup} is too long",
            file=sys.stderr,
        )
    return steps // 10


def _build(cls: type, values: dict[str, Any]) -> ConfigT:
    default = cls()
    groups = {}
    for part in dataclasses.fields(cls):
        old = getattr(default, part.name)
        names = [field.name for field in dataclasses.fields(old)]
        groups[part.name] = dataclasses.replace(old, **{name: values[name] for name in names})
    config = cls(**groups)
    _check_pairs(config, default)
    return config


def _check_local(config: ConfigT) -> None:
    """Raises ConfigError for a path of a remote storage that its flag does not take: it would become a local folder."""
    takers = ", ".join(f"--{field.name}" for _, field, _ in leaves(config) if field.metadata["remote"])
    for _, field, value in leaves(config):
        if not isinstance(value, str) or field.name in _TEXTS:
            continue
        for scheme, slashes in _REMOTE.findall(value):
            what, web = f"--{field.name}={value}", "http" in f"{field.metadata['help']}{field.default}"
            if (scheme.lower() in _WEB and web) or (len(slashes) < 2 and scheme not in BUCKETS):
                continue
            if scheme == HUB and len(slashes) < 2:  # hf:/FOLDER
                continue
            if scheme not in BUCKETS:
                raise ConfigError(
                    f"{what}: {scheme}:// is read and written by no flag that names files: "
                    f"{_REMEDIES.get(scheme.lower(), 'mount it, and name the folder where it is mounted')} "
                    "(docs/devices.md)"
                )
            if len(slashes) < 2:
                raise ConfigError(f"{what}: write {scheme}://BUCKET/PATH")
            if not field.metadata["remote"]:
                there = f"; {scheme}:// is for {takers}" if takers else ""
                raise ConfigError(f"{what}: this must be a path of this machine{there} (docs/devices.md)")


def _check_pairs(config: ConfigT, default: ConfigT) -> None:
    """Raises ConfigError for flags of different groups that contradict each other, and for those without effect."""
    values = {field.name: value for _, field, value in leaves(config)}
    for (_, field, value), (_, _, usual) in zip(leaves(config), leaves(default), strict=True):
        flag, legal = field.metadata["only"] or ("", ())
        if value == usual or flag not in values or values[flag] in legal:
            continue
        if legal == ("",):
            raise ConfigError(
                f"--{field.name}={value} and --{flag}={values[flag]} both decide it: leave out one of them"
            )
        raise ConfigError(
            f"--{field.name}={value} acts only with --{flag}={' or '.join(legal)}, and it is {values[flag]}: "
            "leave out one of them"
        )
    if values.get("warmup", 0) >= values.get("steps", math.inf):
        raise ConfigError(
            f"--warmup={values['warmup']}: the warm-up must end before --steps={values['steps']}; lower it"
        )
    if values.get("batch_size", 0) % values.get("microbatches", 1):
        raise ConfigError(
            f"--batch_size={values['batch_size']} does not split into --microbatches={values['microbatches']}: "
            "use a multiple"
        )


def from_dict(cls: type, values: dict[str, dict[str, Any]]) -> ConfigT:
    """The inverse of `to_dict`. Unknown or missing names raise ConfigError."""
    flat = {name: value for part in values.values() for name, value in part.items()}
    known = {field.name for _, field, _ in leaves(cls)}
    if flat.keys() != known:
        raise ConfigError(
            f"config of another version: unknown {sorted(flat.keys() - known)}, "
            f"missing {sorted(known - flat.keys())}"
        )
    return _build(cls, flat)


def _print_help(cls: type, program: str) -> None:
    values, search = _parsed(cls, sys.argv[1:])
    words = "" if search == "true" else search
    text = flag_help.text(cls, program, sys.modules["__main__"], search=words, full=values.helpfull)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # --help | head: Python would write the rest once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_LESS_MEMORY = (
    "lower --batch_size, --seq_len or --max_new; in training, raise --microbatches or set --remat=full"
)


def launch(
    cls: ConfigClass, main: Callable[[ConfigT], Any], program: str, *, grace: float = signals.GRACE
) -> None:
    """Runs a command's main; an expected error is one message without a traceback.

    Exit status 2 for a ConfigError, which the same command would raise again; 1 for a Failure or an OSError, such as a
    full disk, and for a device without memory; 130 for Ctrl-C, 143 for SIGTERM, at most `grace` seconds after it, or
    once training has saved its state.
    """
    try:
        signals.install(grace, _stop_within())
        config = from_flags(cls, sys.argv[1:])
        if config is None:
            _print_help(class_of(cls, sys.argv[1:]), program)
            return
        main(config)
        if stopped := signals.recorded_stop():  # training has saved its state, and said so
            sys.exit(signals.status(stopped))
        return
    except (Exception, KeyboardInterrupt) as error:
        status, lines = _status_and_message(signals.behind(error))
    print("error:", "\n".join(map(str, lines)), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Exit handlers would wait for the other processes of the run, and those for this one.
    os._exit(status)


def _stop_within() -> float:
    """Seconds after SIGTERM that what started this command waits for its end. Raises ConfigError."""
    text = os.environ.get(signals.WITHIN) or str(signals.STOP_WITHIN)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{signals.WITHIN}={text}: write a number of seconds, above 0")
    return seconds


def _status_and_message(error: BaseException) -> tuple[int, list[Any]]:
    """The exit status and the lines of an error that is expected; raises any other one."""
    notes = getattr(error, "__notes__", ())
    if isinstance(error, ConfigError):
        return 2, [error, *notes]
    if isinstance(error, KeyboardInterrupt):
        number = signals.number_of(error)
        head = "interrupted" if number == signals.SIGINT else f"stopped by {signals.name(number)}"
        return signals.status(number), [head, *notes]
    if type(error).__name__ == "JaxRuntimeError" and str(error).startswith("RESOURCE_EXHAUSTED"):
        return 1, [f"a device has no memory left: {str(error).splitlines()[0]}", _LESS_MEMORY, *notes]
    if not (isinstance(error, Failure | OSError) or is_bucket_error(error)):
        raise error
    full = [full_disk.remedy(error.filename or ".", error)] if full_disk.is_full(error) else []
    return 1, [str(error) or type(error).__name__, *full, *notes]
