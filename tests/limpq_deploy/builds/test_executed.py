"""The modules that a stage's digest is over are those that it executes."""

from pathlib import Path

from limpq_deploy.calibration.records import load_record
from limpq_deploy.workspace import sources
from limpq_deploy.workspace.workspace import BuildState

CARRIES = {
    *sources.PLUMBING,
    *("limpq_deploy.cli.output.tables", "limpq_deploy.pipeline.stages.versions"),
    *("limpq_deploy.train.kept_memory", "limpq_deploy.pipeline.stages.declaration"),
    "limpq_deploy.policy.budgets",
}
"""What is executed and computes no result: files, records, progress, which settings there are."""


def test_whatever_a_stage_of_a_build_executes_is_in_its_digest(
    finished: Path, executed: dict[str, tuple[set[str], tuple[str, ...]]]
) -> None:
    assert executed.keys() == load_record(BuildState, finished / "stages.json").stages.keys()
    assert len(executed) >= 14  # uniform bits may be the policy
    root = sources.ROOT.resolve()
    modules = {}
    for name in sources._modules():
        path = root.joinpath(*name.split(".")[1:])
        modules[str((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).resolve())] = name
    for stage, (files, digested) in executed.items():
        ran = {modules[file] for path in files if (file := str(Path(path).resolve())) in modules}
        assert ran - set(digested) <= CARRIES, stage
        assert len(ran & set(digested)) > 3, stage
