"""README's way to a colleague, as printed: a clone pulls, finds the run, predicts, tries something, hands it back."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.project import Project, printed, repository


@pytest.mark.slow
def test_a_colleague_gets_everything_and_hands_an_experiment_back(tmp_path: Path) -> None:
    owner, origin = repository(tmp_path / "owner", HOME=str(tmp_path)), tmp_path / "origin.git"
    owner.install()
    subprocess.run(["git", "init", "--quiet", "--bare", origin], check=True)
    owner.shell("git", "remote", "add", "origin", str(origin))
    owner.shell("git", "push", "--quiet", "--set-upstream", "origin", "HEAD")
    owner.repro()
    at_home, elsewhere = printed("README.md", "Handing it to a colleague")
    owner.bash(at_home)

    subprocess.run(["git", "clone", "--quiet", origin, tmp_path / "colleague"], check=True)
    colleague = Project(tmp_path / "colleague", {"HOME": str(tmp_path)})
    colleague.install()
    for key in ("user.name", "user.email"):
        colleague.shell("git", "config", key, "t")
    said = colleague.bash(elsewhere)

    assert "Nothing has changed since then: this is the same result." in said
    assert "Compared with the committed result: the same, to the byte" in said
    client = MlflowClient(f"sqlite:///{colleague.root}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "thaw"]
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2, "of what was pulled, and of the experiment"
    for run in runs:
        assert "report.html" in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert "Running stage 'finetune'" in said
    assert "Running stage 'train_head'" not in said, "what was pulled is not computed again"
    assert re.search(r"params.yaml +finetune +toy +last_3_blocks", said), "dvc exp diff"
    assert "red" in colleague.bash("python -m stages.predict data/red/00.png")

    owner.bash("dvc exp pull origin gentler && dvc exp apply gentler")
    applied = json.loads(owner.dvc("metrics", "show", "--json"))[""]["data"]
    assert applied == json.loads(colleague.dvc("metrics", "show", "--json"))[""]["data"]
    assert "finetune: last_3_blocks" in (owner.root / "params.yaml").read_text(encoding="utf-8")
