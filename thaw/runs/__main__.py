"""The runs of this project in MLflow, from the command line.

    python -m thaw.runs ui [--port 5000]     show all runs
    python -m thaw.runs publish              publish the results in artifacts/, if that has not been done

``make ui`` and ``make repro`` call both.
"""

import argparse

from thaw.artifacts import Paths
from thaw.errors import UserError, fail
from thaw.runs import ui
from thaw.runs.publishing import catch_up


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m thaw.runs", description="The runs of this project in MLflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("ui", help="serve the run table on 127.0.0.1")
    serve.add_argument("--port", type=int, default=5000)
    commands.add_parser("publish", help="publish the results in artifacts/, if that has not been done")
    arguments = parser.parse_args()
    try:
        catch_up(Paths())
        if arguments.command == "ui":
            ui.serve(arguments.port)
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main()
