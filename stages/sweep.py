"""Try many configurations, and rank them by validation accuracy: Hydra's multirun over the five stages.

Each job calls the stages' ``run`` functions in folders of its own below multirun/, so the project's DVC outputs stay as
they are. What two jobs have in common is computed once; finished jobs are recognised and skipped, so the same command
goes on where it was stopped. Any key of the configuration may vary, in Hydra's syntax:

    python -m stages.sweep -m backbone=mobilenet_v2,resnet50 train_head=lbfgs,adam
    python -m stages.sweep -m experiment=depth
    python -m stages.sweep -m --heads experiment=heads   rank heads alone; fine-tune only the best
    python -m stages.sweep --promote JOB                 make a job the project's configuration
"""

import sys

from stages import evaluate, extract_features, finetune, prepare, train_head
from thaw import promoting, sweeping
from thaw.config import fail, launch
from thaw.errors import UserError

STAGES: sweeping.Stages = {
    "prepare": prepare.run,
    "extract_features": extract_features.run,
    "train_head": train_head.run,
    "finetune": finetune.run,
    "evaluate": evaluate.run,
}


def main() -> None:
    """Be the command line."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["--promote"]:
            promote(arguments[1:])
            return
        if heads := "--heads" in arguments:
            arguments.remove("--heads")
            sys.argv.remove("--heads")  # it is not Hydra's
        sweep = sweeping.Sweep.of(arguments, STAGES, heads)
    except UserError as error:
        fail(error)
    try:
        if sweeping.MULTIRUN & {*arguments}:  # composing all jobs takes Hydra a moment
            print(f"Sweep {sweep.name}: {sweep.total} job{'s' * (sweep.total > 1)}", flush=True)
        launch(sweep.job, __name__)
        succeeded = sweeping.conclude(sweep)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    finally:
        sweeping.worker().stop()
    if not succeeded:
        sys.exit(1)


def promote(names: list[str]) -> None:
    """Make a job the project's configuration, and show what that changes.

    Raises:
        UserError: see ``promoting.promote``; or not one job is named.
    """
    if len(names) != 1:
        raise UserError(f"--promote: expected the name of one job, found {' '.join(names) or 'none'}; name one")
    difference = promoting.promote(names[0])
    print(difference or "params.yaml and conf/ have this configuration already.\n", end="")
    print("Run 'dvc repro' (or 'make repro') to bring the project's results to it.")


if __name__ == "__main__":
    main()
