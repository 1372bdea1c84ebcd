from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from harken import storage
from harken.cli import app
from harken.errors import ConfigError, HarkenError, RunError
from harken.recipe import Recipe, dump_recipe, read_recipe, validate
from harken.verbs import vertex
from harken.vertex.spec import Machine
from test_trainer import tiny_recipe
from vertex_stand_in import stand_in

__all__ = ["stand_in"]

IMAGE = "us-docker.pkg.dev/p/voices/harken:1"
SEARCH: dict[str, Any] = {
    "parameters": {
        "heads.shared": {"kind": "categorical", "choices": [8, 16]},
        "heads.bottleneck": {"kind": "categorical", "choices": [8, 16]},
        "optimizer.lr": {"kind": "categorical", "choices": [0.001, 0.01]},
    },
    "constraints": ["heads.bottleneck <= heads.shared"],
    "metric": "roc_auc",
    "sampler": "grid",
}


def searching(table: Path, **search: Any) -> Recipe:
    over = {"train": {"epochs": 1, "batch_size": 6}, "mix": None}
    recipe = tiny_recipe(table, **over)
    return validate(recipe.model_dump(mode="json") | {"search": {**SEARCH, **search}})


@pytest.fixture
def file(tiny_table: Path, tmp_path: Path) -> Path:
    path = tmp_path / "search.yaml"
    path.write_text(dump_recipe(searching(tiny_table)))
    return path


@pytest.fixture
def plain_file(tiny_table: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plain.yaml"
    path.write_text(dump_recipe(tiny_recipe(tiny_table)))
    return path


def run(*words: str | Path) -> tuple[Any, str]:
    """Return the JSON on standard output and what standard error says."""
    found = CliRunner().invoke(app, ["vertex", *map(str, words)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout), found.stderr


def planned(kind: str, file: Path, *words: str) -> Any:
    out = ("--image", IMAGE, "--out", "gs://b/r")
    return run(kind, file, *out, *words)[0]


def test_a_dry_run_prints_the_job_and_touches_nothing(file: Path) -> None:
    for words in ((), ("--dry-run",)):
        spec, told = run("job", file, "--image", IMAGE, "--out", "gs://no-such-bucket/a/", *words)
        assert spec["displayName"] == "harken-a"
        (pool,) = spec["jobSpec"]["workerPoolSpecs"]
        assert pool["containerSpec"] == {
            "imageUri": IMAGE,
            "args": [
                *("train", "gs://no-such-bucket/a/job.yaml"),
                *("--out", "gs://no-such-bucket/a/run", "--resume"),
            ],
        }
        assert "would first write gs://no-such-bucket/a/job.yaml" in told


def test_a_dry_run_prints_the_search(file: Path) -> None:
    spec, told = run("tune", file, "--image", IMAGE, "--out", "gs://b/r")
    assert spec["maxTrialCount"] == 6
    assert spec["parallelTrialCount"] == 3
    study = spec["studySpec"]
    assert study["algorithm"] == "GRID_SEARCH"
    assert [entry["parameterId"] for entry in study["parameters"]] == [
        "heads.shared",
        "optimizer.lr",
    ]
    (pool,) = spec["trialJobSpec"]["workerPoolSpecs"]
    args = pool["containerSpec"]["args"]
    assert args == ["train", "gs://b/r/recipe.yaml", "--out", "gs://b/r"]
    assert "gs://b/r/recipe.yaml" in told
    assert "gs://b/r/study.json" in told


MACHINE: list[tuple[tuple[str, ...], Any]] = [
    (("--machine", "g2-standard-8"), "g2-standard-8"),
    (("--accelerator", "NVIDIA_TESLA_V100"), "NVIDIA_TESLA_V100"),
    (("--accelerators", "4"), 4),
    (("--disk", "pd-standard"), "pd-standard"),
    (("--disk-gigabytes", "333"), 333),
    (("--spot",), "SPOT"),
    (("--hours", "2"), "7200s"),
    (("--service-account", "me@p.iam"), "me@p.iam"),
    (("--network", "projects/1/global/networks/n"), "projects/1/global/networks/n"),
    (("--base-output", "gs://b/base"), "gs://b/base"),
    (("--env", "A=1=2"), "1=2"),
    (("--folds", "1,2"), "1,2"),
]


def test_every_option_of_the_machine_changes_the_job(plain_file: Path) -> None:
    plain = planned("job", plain_file)
    for words, value in MACHINE:
        spec = planned("job", plain_file, *words)
        assert spec["jobSpec"] != plain["jobSpec"], words
        assert json.dumps(value) in json.dumps(spec["jobSpec"])
    assert planned("job", plain_file, "--name", "mine")["displayName"] == "mine"
    assert planned("job", plain_file, "--label", "team=voice")["labels"] == {"team": "voice"}
    none = planned("job", plain_file, "--accelerator", "none")["jobSpec"]["workerPoolSpecs"][0]
    assert none["machineSpec"] == {"machineType": "n1-highmem-2"}


def test_a_trial_runs_on_what_a_job_does(plain_file: Path, file: Path) -> None:
    words = [word for option, _ in MACHINE for word in option]
    trial = planned("tune", file, *words, "--label", "team=voice", "--name", "mine")
    job = planned("job", plain_file, *words, "--label", "team=voice", "--name", "mine")
    assert (trial["displayName"], trial["labels"]) == (job["displayName"], job["labels"])
    pools = [spec["workerPoolSpecs"][0] for spec in (trial["trialJobSpec"], job["jobSpec"])]
    assert [pool["containerSpec"].pop("args")[-2:] for pool in pools] == [["--folds", "1,2"]] * 2
    assert trial["trialJobSpec"] == job["jobSpec"]


def test_the_other_options_change_the_job(file: Path) -> None:
    assert planned("tune", file, "--trials", "4")["maxTrialCount"] == 4
    assert planned("tune", file, "--parallel", "2")["parallelTrialCount"] == 2
    assert planned("tune", file, "--failures", "2")["maxFailedTrialCount"] == 2
    args = planned("job", file, "--jobs", "2")["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
    assert args["args"][-2:] == ["--jobs", "2"]
    choices = "search.parameters.optimizer.lr={kind: float, low: 0.001, high: 0.1, step: 0.033}"
    assert planned("tune", file, choices)["maxTrialCount"] == 12


def test_what_a_person_should_know_is_noted(
    file: Path, tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--image", IMAGE, "--out", "gs://b/r", "--trials", "5")
    _, told = run("tune", file, *words, "search.sampler=tpe", "--accelerator", "NVIDIA_TELSA_T4")
    assert "Bayesian" in told
    assert "did you mean 'NVIDIA_TESLA_T4'" in told
    assert f"data.source.path is {tiny_table}, which is on this machine" in told
    _, told = run("job", file, *words[:4], "data.source.path=gs://b/clips.csv")
    assert "on this machine" not in told
    for name in ("recordings", "label"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    _, told = run("job", file, *words[:4], "data.source.path=recordings")
    assert "data.source.path is recordings, which is on this machine" in told
    assert "data.target" not in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("job", "--out", "runs/a"), "gs://BUCKET/FOLDER"),
        (("job", "--out", "gs://b/r", "--label", "Team"), "--label"),
        (("job", "--out", "gs://b/r", "--env", "A=1", "--env", "A=2"), "is there twice"),
        (("job", "--out", "gs://b/r", "--submit", "--dry-run"), "leave one out"),
        (("tune", "--out", "gs://b/r", "search.sampler=random"), "--trials 50"),
        (("tune", "--out", "gs://b/r", "search=null"), "no search"),
        (("tune", "--out", "gs://b/r", "search.metric=null"), r"search\.metric=balanced_accuracy"),
        (("tune", "--out", "gs://b/r", "search.pruner=median"), r"search\.pruner=none"),
    ],
)
def test_mistakes_say_what_to_type(file: Path, words: tuple[str, ...], message: str) -> None:
    kind, *rest = words
    with pytest.raises(HarkenError, match=message):
        run(kind, file, "--image", IMAGE, *rest)


def test_lists_and_tables_that_the_recipe_names_travel_inside_it(
    file: Path, tmp_path: Path
) -> None:
    names = tmp_path / "labels.txt"
    names.write_text("low\nhigh\n")
    tree = yaml.safe_load(file.read_text())
    tree["data"]["target"] = {"label_file": str(names)}
    recipe = validate(tree)
    for plan in (
        vertex.plan_job(recipe, "gs://b/r", Machine(IMAGE)),
        vertex.plan_tuning(recipe, "gs://b/r", Machine(IMAGE)),
    ):
        text = next(iter(plan.files.values()))
        assert str(names) not in text
        assert yaml.safe_load(text)["data"]["target"]["columns"] == ["low", "high"]


# --- submitting ---


def submitted(*words: str | Path) -> list[str]:
    found = CliRunner().invoke(app, ["vertex", *map(str, words)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout.splitlines()


def test_submitting_writes_the_recipe_and_sends_the_job(
    file: Path, gcs_bucket: str, stand_in: Any
) -> None:
    words = (file, "--image", IMAGE, "--submit", "--endpoint", stand_in.url)
    out = ("--out", f"{gcs_bucket}/a", "--project", "p", "--region", "europe-west4")
    lines = submitted("tune", *words, *out, "train.batch_size=4")
    ((parent, job),) = stand_in.jobs
    assert parent == "projects/p/locations/europe-west4"
    assert lines == [
        f"submitted: {parent}/hyperparameterTuningJobs/1001",
        "console: https://console.cloud.google.com/agent-platform/locations/europe-west4/training/"
        "1001?project=p",
        f"afterwards: harken tune score {gcs_bucket}/a --out scores",
    ]
    (worker,) = job.trial_job_spec.worker_pool_specs
    recipe = read_recipe([worker.container_spec.args[1]])
    assert recipe == read_recipe([file], ["train.batch_size=4"])
    about = json.loads(storage.read_bytes(f"{gcs_bucket}/a/study.json"))
    assert (about["metric"], about["direction"]) == ("roc_auc", "maximize")
    assert [spec.parameter_id for spec in job.study_spec.parameters] == [
        "heads.shared",
        "optimizer.lr",
    ]
    (low, high) = job.study_spec.parameters[0].conditional_parameter_specs
    assert low.parent_discrete_values.values == [8.0]
    assert high.parameter_spec.discrete_value_spec.values == [8.0, 16.0]


def test_a_second_job_does_not_write_over_the_first(
    file: Path, gcs_bucket: str, stand_in: Any
) -> None:
    words = (file, "--image", IMAGE, "--submit", "--endpoint", stand_in.url, "--project", "p")
    out = ("--out", f"{gcs_bucket}/a")
    lines = submitted("job", *words, *out)
    assert lines[-1] == f"afterwards: harken evaluate {gcs_bucket}/a/run"
    submitted("job", *words, *out)  # the same recipe: goes on where the first stopped
    with pytest.raises(RunError, match="another recipe"):
        submitted("job", *words, *out, "seed=5")
    assert len(stand_in.jobs) == 2
    submitted("tune", *words, *out)
    storage.write_atomic(f"{gcs_bucket}/a/trial-1/trial.json", "{}")
    with pytest.raises(RunError, match="trials already"):
        submitted("tune", *words, *out)


def test_a_job_that_is_refused_leaves_nothing_behind(
    file: Path, gcs_bucket: str, stand_in: Any
) -> None:
    words = (file, "--image", IMAGE, "--submit", "--endpoint", stand_in.url, "--project", "p")
    stand_in.refusal = (403, "Permission denied")
    with pytest.raises(RunError, match="Permission denied"):
        submitted("tune", *words, "--out", f"{gcs_bucket}/a")
    assert storage.entries(f"{gcs_bucket}/a") == []
    stand_in.refusal = (503, "come back")
    with pytest.raises(RunError, match="does not answer"):
        submitted("tune", *words, "--out", f"{gcs_bucket}/b")
    assert storage.is_file(f"{gcs_bucket}/b/recipe.yaml")  # the job may have been taken
    with pytest.raises(ConfigError, match="NVIDIA_T5"):
        submitted("job", *words, "--out", f"{gcs_bucket}/a", "--accelerator", "NVIDIA_T5")
    assert storage.entries(f"{gcs_bucket}/a") == []


# --- inside the container ---


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of trial 7; returns the file in which the service reads its number."""
    path = tmp_path / "hypertune" / "output.metrics"
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(path))
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "7")
    return path


def train(*words: str | Path) -> str:
    found = CliRunner().invoke(app, ["train", *map(str, words)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_a_trial_trains_where_the_service_says_and_tells_one_number(
    file: Path, tiny_table: Path, gcs_bucket: str, service: Path
) -> None:
    recipe = f"{gcs_bucket}/s/recipe.yaml"
    storage.write_atomic(recipe, file.read_text())
    # The job's arguments, and then the words that the service adds to them.
    words = ("--heads.bottleneck=8.0", "--heads.shared=16.0", "--optimizer.lr=0.01")
    told = train(recipe, "--out", f"{gcs_bucket}/s", "--folds", "1,2", *words)
    about = json.loads(storage.read_bytes(f"{gcs_bucket}/s/trial-7/trial.json"))
    assert about["values"] == {"heads.bottleneck": 8, "heads.shared": 16, "optimizer.lr": 0.01}
    assert {key: about[key] for key in ("study", "number", "metric", "split", "state")} == {
        "study": "s",
        "number": 7,
        "metric": "roc_auc",
        "split": "valid",
        "state": "complete",
    }
    (line,) = [json.loads(line) for line in service.read_text().splitlines()]
    assert float(line["roc_auc"]) == about["value"]
    assert (line["trial"], line["global_step"]) == ("7", "1")
    assert line["checkpoint_path"] == f"{gcs_bucket}/s/trial-7"
    assert f"trial 7: roc_auc {about['value']:.4f}" in told
    kept = read_recipe([f"{gcs_bucket}/s/trial-7/recipe.yaml"])
    assert (kept.heads.shared, kept.heads.bottleneck, kept.search) == (16, 8, None)
    metrics = json.loads(storage.read_bytes(f"{gcs_bucket}/s/trial-7/fold-1/metrics.json"))
    assert list(metrics) == ["valid"]
    assert not storage.exists(f"{gcs_bucket}/s/trial-7/fold-1/last")
    # Started again, it goes on; nothing is trained twice.
    history = storage.read_bytes(f"{gcs_bucket}/s/trial-7/fold-1/metrics.jsonl")
    train(recipe, "--out", f"{gcs_bucket}/s", "--folds", "1,2", *words)
    assert storage.read_bytes(f"{gcs_bucket}/s/trial-7/fold-1/metrics.jsonl") == history
    assert len(service.read_text().splitlines()) == 1


def test_an_impossible_trial_tells_no_number(file: Path, tmp_path: Path, service: Path) -> None:
    words = ("--heads.bottleneck=16.0", "--heads.shared=8.0")
    assert "infeasible" in train(file, "--out", tmp_path / "s", *words)
    assert not service.exists()
    about = json.loads((tmp_path / "s/trial-7/trial.json").read_text())
    assert (about["state"], about["value"]) == ("pruned", None)
    assert "heads.bottleneck <= heads.shared" in about["error"]
    assert not (tmp_path / "s/trial-7/recipe.yaml").exists()


def test_a_failed_trial_tells_no_number(file: Path, tmp_path: Path, service: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.split\.valid"):
        train(file, "--out", tmp_path / "s", "data.split.valid=0.0", "train.keep=last")
    assert not service.exists()
    about = json.loads((tmp_path / "s/trial-7/trial.json").read_text())
    assert about["state"] == "failed"
    assert "validation" in about["error"]


def test_memory_that_is_not_there_is_a_failure_with_its_reason(
    file: Path, tmp_path: Path, service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(vertex, "train_fold", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(file, "--out", tmp_path / "s")
    about = json.loads((tmp_path / "s/trial-7/trial.json").read_text())
    assert (about["state"], about["error"]) == ("failed", "RuntimeError('CUDA out of memory')")
    assert not service.exists()


def test_a_complete_trial_is_not_undone(file: Path, tmp_path: Path, service: Path) -> None:
    trial = tmp_path / "s/trial-7"
    trial.mkdir(parents=True)
    (trial / "trial.json").write_text('{"state": "complete"}')
    (trial / "recipe.yaml").write_text("another: recipe\n")
    with pytest.raises(RunError, match="another recipe"):
        train(file, "--out", tmp_path / "s")
    assert json.loads((trial / "trial.json").read_text()) == {"state": "complete"}


def test_a_trial_has_one_process(file: Path, tmp_path: Path, service: Path) -> None:
    with pytest.raises(ConfigError, match="--jobs"):
        train(file, "--out", tmp_path / "s", "--jobs", "2")


def test_the_jobs_own_arguments_train_in_the_bucket_and_go_on_when_started_again(
    file: Path, gcs_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUD_ML_TRIAL_ID", raising=False)
    monkeypatch.setattr("harken.cli.run._try_report", lambda path: None)
    plan = vertex.plan_job(
        read_recipe([file]), f"{gcs_bucket}/a", Machine(IMAGE), options=["--folds", "1"]
    )
    for url, text in plan.files.items():
        storage.write_atomic(url, text)
    command, *arguments = plan.spec["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"]
    assert command == "train"
    assert "balanced_accuracy" in train(*arguments)
    before = storage.read_bytes(f"{plan.results}/fold-1/metrics.jsonl")
    assert "balanced_accuracy" in train(*arguments)
    assert storage.read_bytes(f"{plan.results}/fold-1/metrics.jsonl") == before
    assert not [entry for entry in storage.entries(plan.results) if "trial" in entry.name]
