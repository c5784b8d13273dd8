"""The group of commands, and how each of them ends."""

from __future__ import annotations

import click

import pidpool
from pidpool.cli.audit import audit
from pidpool.cli.bench import bench
from pidpool.cli.errors import CommandError
from pidpool.cli.interrupts import Interrupted, Interrupts
from pidpool.cli.render import Renderer
from pidpool.cli.streams import outlets

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
_USAGE = 2


@click.group(
    context_settings=_CONTEXT,
    invoke_without_command=True,
    epilog="Exit codes: 0 if all is well, 1 if not (each command's --help says what that means), 2 if the command "
    "could not be carried out, 128+n if signal n ended it: 130 for Ctrl-C, 143 for SIGTERM.",
)
@click.version_option(pidpool.__version__, prog_name="pidpool")
@click.pass_context
def application(context: click.Context) -> None:
    """Connection pools that survive fork."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(_USAGE)


application.add_command(audit)
application.add_command(bench)


def run() -> int:
    """Parse the arguments of this process, do what they ask, and return its exit code.

    Click is kept from reporting errors itself: it quotes the arguments that it does not understand, and one
    of them may be a URL with a password in it. The renderer hides those.
    """
    with outlets(), Interrupts() as interrupts:
        renderer = Renderer()
        try:
            # A command returns its exit code; --help and --version return click's own, which is 0.
            terminal = (renderer, interrupts)
            return int(application.main(prog_name="pidpool", standalone_mode=False, obj=terminal) or 0)
        except click.UsageError as error:
            hint = f"Try '{error.ctx.command_path} --help' for help." if error.ctx else ""
            renderer.error(error.format_message(), hint)
            return error.exit_code
        except click.ClickException as error:
            renderer.error(error.format_message())
            return error.exit_code
        except CommandError as error:
            renderer.error(str(error))
            return error.exit_code
        except Interrupted as interrupted:
            renderer.notice(str(interrupted))
            return interrupted.exit_code
