"""How a user calls this program: by the scripts of this repository, or by the command of the installed package.

The wheel (setup.py) holds the folders data, models and engine as parts of one package. By the name of this module the
program knows which of the two it is.
"""

import shlex

PACKAGE = "pancreas_dual_task"
COMMAND = "pancreas-dual-task"
IS_INSTALLED = __name__.startswith(f"{PACKAGE}.")


def module_name(module: str) -> str:
    """Return the name by which a module of this repository, such as "engine.stages", can be imported here."""
    return f"{PACKAGE}.{module}" if IS_INSTALLED and not module.startswith(f"{PACKAGE}.") else module


def command_name(script: str, subcommand: str) -> str:
    """Return what the user types to run a command, for its help text and for messages.

    Args:
        script: In this repository, such as "python -m data.prepare".
        subcommand: Its name in the installed package, such as "prepare".
    """
    return f"{COMMAND} {subcommand}" if IS_INSTALLED else script


def install_command(extra: str, *packages: str) -> str:
    """Return what the user types to install optional packages.

    Args:
        extra: Name of the extra of the installed package that has them (setup.py).
        packages: Their names, for this repository.
    """
    return f"pip install '{COMMAND}[{extra}]'" if IS_INSTALLED else f"pip install {shlex.join(packages)}"
