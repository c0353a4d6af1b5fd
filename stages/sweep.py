"""Try many configurations, and rank them by validation accuracy: Hydra's multirun over the stages.

Each job calls the stages' ``run`` functions in folders of its own below multirun/, so the project's DVC outputs stay as
they are. What two jobs have in common is computed once; finished jobs are recognised and skipped, so the same command
goes on where it was stopped. Any key of the configuration may vary, in Hydra's syntax:

    python -m stages.sweep -m backbone=mobilenet_v2,resnet50 train_head=lbfgs,adam
    python -m stages.sweep -m experiment=depth
    python -m stages.sweep -m experiment=heads           rank heads alone; fine-tune only the best
    python -m stages.sweep -m experiment=backbones       rank backbones by cross-validated heads
    python -m stages.sweep -m hydra.sweeper.sampler=tpe 'train_head.dropout=interval(0.0,0.8)' train_head=adam
    python -m stages.sweep --promote JOB                 make a job the project's configuration
"""

import sys

from stages import audit, evaluate, extract_features, finetune, prepare, train_head
from thaw.config.composing import launch
from thaw.errors import UserError, fail
from thaw.runs import store
from thaw.sweeps import jobs, probe, promotion, running, search

STAGES: jobs.Stages = {
    "prepare": prepare.run,
    "extract_features": extract_features.run,
    "audit": audit.run,
    "probe": probe.run,
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
        store.address()  # a wrong address is said before the work, not after it
    except UserError as error:
        fail(error)
    sys.argv[1:], held = search.hold_back(arguments)
    sweep = running.Sweep(STAGES, held)
    try:
        launch(sweep.job, __name__)
        succeeded = running.conclude(sweep)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    finally:
        running.worker().stop()
    if not succeeded:
        sys.exit(1)


def promote(names: list[str]) -> None:
    """Make a job the project's configuration, and show what that changes.

    Raises:
        UserError: see ``promoting.promote``; or not one job is named.
    """
    if len(names) != 1:
        raise UserError(f"--promote: expected the name of one job, found {' '.join(names) or 'none'}; name one")
    difference = promotion.promote(names[0])
    print(difference or "params.yaml and conf/ have this configuration already.\n", end="")
    print("Run 'dvc repro' (or 'make repro') to bring the project's results to it.")


if __name__ == "__main__":
    main()
