"""The command `deploy-compile`. Imports no torch, onnx or engine library for --help, list and show."""

import sys

import click

from deploy_compile import cli, cli_bundle, cli_recipe
from deploy_runtime.errors import DeployError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="deploy-compile")
def app() -> None:
    """From a trained PyTorch model to a verified, deployable bundle.

    \b
    deploy-compile list                          what can be compiled
    deploy-compile recipe x3d_s --int8           compile one, check it, time it, bundle it
    deploy-compile check artifacts/x3d_s-int8    run its gates again
    """


for command in (
    cli.list_,
    cli.show,
    cli.doctor,
    cli_recipe.recipe,
    cli_bundle.check,
    cli_bundle.bench,
    cli_bundle.diagnose,
    cli_bundle.triton,
):
    app.add_command(command)


def main() -> None:
    """Run the command; print a DeployError as two lines and leave with its exit code."""
    try:
        code = app(standalone_mode=False)  # what a command left with click's Exit, else None
        if code:
            sys.exit(code)
    except click.exceptions.Abort:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DeployError as error:
        print(f"error: {error.message}\n  fix: {error.fix}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
