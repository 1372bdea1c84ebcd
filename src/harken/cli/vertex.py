"""`harken vertex`: training and searches on Vertex AI."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.app import WORDS, Words, app, recipe_of
from harken.errors import ConfigError

if TYPE_CHECKING:
    from harken.verbs.vertex import Plan

vertex_app = typer.Typer(
    help="Train and search on Vertex AI: prints a job's JSON, and submits it on request.",
    no_args_is_help=True,
)
app.add_typer(vertex_app, name="vertex")

Out = Annotated[str, typer.Option(help="Bucket folder for the recipe and the runs: gs://….")]
Image = Annotated[str, typer.Option(help="Container image whose entry point is harken.")]
Name = Annotated[str | None, typer.Option(help="Name in the console; by default --out's.")]
MachineType = Annotated[str, typer.Option(help="Compute Engine's name of the machine.")]
Accelerator = Annotated[
    str | None,
    typer.Option(help="Such as NVIDIA_L4, or none; by default the usual one of the machine."),
]
Accelerators = Annotated[int, typer.Option(help="How many of them.", min=1)]
Disk = Annotated[str, typer.Option(help="Kind of the boot disk.")]
DiskGigabytes = Annotated[int, typer.Option(help="Its size.", min=100)]
Spot = Annotated[bool, typer.Option("--spot", help="Cheaper machines that may be taken away.")]
Hours = Annotated[float | None, typer.Option(help="Longest time of a job or of a trial.")]
Account = Annotated[str | None, typer.Option(help="Whose rights the job has: an e-mail address.")]
Network = Annotated[str | None, typer.Option(help="projects/NUMBER/global/networks/NAME.")]
Base = Annotated[str | None, typer.Option(help="Bucket folder behind AIP_MODEL_DIR: gs://….")]
Env = Annotated[list[str] | None, typer.Option(help="Variable of the container: NAME=value.")]
Label = Annotated[list[str] | None, typer.Option(help="Label of the job: team=voice.")]
Folds = Annotated[str, typer.Option(help="Folds to run: all, or names such as 1,3.")]
Jobs = Annotated[int, typer.Option(help="Folds to train side by side.", min=1)]
Project = Annotated[str | None, typer.Option(help="Who pays; by default the credentials' own.")]
Region = Annotated[str, typer.Option(help="Where it runs.")]
Endpoint = Annotated[str | None, typer.Option(help="Another address of the service.")]
Submit = Annotated[bool, typer.Option("--submit", help="Submit the job.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only print the job, which is done without --submit too.")
]


@vertex_app.command(context_settings=WORDS)
def job(
    recipe: Words,
    image: Image,
    out: Out,
    name: Name = None,
    machine: MachineType = "n1-highmem-2",
    accelerator: Accelerator = None,
    accelerators: Accelerators = 1,
    disk: Disk = "pd-ssd",
    disk_gigabytes: DiskGigabytes = 100,
    spot: Spot = False,
    hours: Hours = None,
    service_account: Account = None,
    network: Network = None,
    base_output: Base = None,
    env: Env = None,
    label: Label = None,
    folds: Folds = "all",
    jobs: Jobs = 1,
    project: Project = None,
    region: Region = "us-central1",
    endpoint: Endpoint = None,
    submit: Submit = False,
    dry_run: DryRun = False,
) -> None:
    """Train a recipe there: prints the CustomJob, and submits it with --submit."""
    from harken.verbs import vertex as verb
    from harken.vertex.spec import Machine

    wanted = Machine(
        image=image,
        machine=machine,
        accelerator=accelerator,
        num_accelerators=accelerators,
        disk=disk,
        disk_gigabytes=disk_gigabytes,
        spot=spot,
        hours=hours,
        service_account=service_account,
        network=network,
        base_output=base_output,
        environment=_pairs(env, "--env"),
    )
    plan = verb.plan_job(
        recipe_of(recipe),
        out,
        wanted,
        name=name,
        labels=_pairs(label, "--label"),
        options=_train_options(folds, jobs),
    )
    _finish(plan, _decided(submit, dry_run), project, region, endpoint)


@vertex_app.command(context_settings=WORDS)
def tune(
    recipe: Words,
    image: Image,
    out: Out,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all; by default a grid's combinations.", min=1)
    ] = None,
    parallel: Annotated[int, typer.Option(help="Trials at a time.", min=1)] = 3,
    failures: Annotated[
        int | None, typer.Option(help="Failed trials after which it gives up.", min=1)
    ] = None,
    name: Name = None,
    machine: MachineType = "n1-highmem-2",
    accelerator: Accelerator = None,
    accelerators: Accelerators = 1,
    disk: Disk = "pd-ssd",
    disk_gigabytes: DiskGigabytes = 100,
    spot: Spot = False,
    hours: Hours = None,
    service_account: Account = None,
    network: Network = None,
    base_output: Base = None,
    env: Env = None,
    label: Label = None,
    folds: Folds = "all",
    project: Project = None,
    region: Region = "us-central1",
    endpoint: Endpoint = None,
    submit: Submit = False,
    dry_run: DryRun = False,
) -> None:
    """Run a recipe's search there: prints the HyperparameterTuningJob; submits it with --submit."""
    from harken.verbs import vertex as verb
    from harken.vertex.spec import Machine

    wanted = Machine(
        image=image,
        machine=machine,
        accelerator=accelerator,
        num_accelerators=accelerators,
        disk=disk,
        disk_gigabytes=disk_gigabytes,
        spot=spot,
        hours=hours,
        service_account=service_account,
        network=network,
        base_output=base_output,
        environment=_pairs(env, "--env"),
    )
    plan = verb.plan_tuning(
        recipe_of(recipe),
        out,
        wanted,
        trials=trials,
        parallel=parallel,
        failures=failures,
        name=name,
        labels=_pairs(label, "--label"),
        options=_train_options(folds),
    )
    _finish(plan, _decided(submit, dry_run), project, region, endpoint)


def _finish(
    plan: Plan, submit: bool, project: str | None, region: str, endpoint: str | None
) -> None:
    from harken.verbs import vertex as verb

    for note in plan.notes:
        typer.echo(f"note: {note}", err=True)
    if not submit:
        for url in plan.files:
            typer.echo(f"--submit would first write {url}", err=True)
        typer.echo(json.dumps(plan.spec, indent=2, ensure_ascii=False))
        return
    made = verb.submit(plan, project, region, endpoint)
    typer.echo(f"submitted: {made.name}")
    typer.echo(f"console: {made.console}")
    then = "evaluate {}" if plan.kind == "job" else "tune score {} --out scores"
    typer.echo(f"afterwards: harken {then.format(plan.results)}")


def _decided(submit: bool, dry_run: bool) -> bool:
    if submit and dry_run:
        raise ConfigError("submit it, or only print it?", where="--dry-run", fix="leave one out")
    return submit


def _train_options(folds: str, jobs: int = 1) -> list[str]:
    options = [] if folds == "all" else ["--folds", folds]
    return options if jobs == 1 else [*options, "--jobs", str(jobs)]


def _pairs(words: list[str] | None, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not equals or not name or name in found:
            problem = "is there twice" if name in found else "has no ="
            raise ConfigError(f"{word!r} {problem}", where=where, fix=f"{where} NAME=value")
        found[name] = value
    return found
