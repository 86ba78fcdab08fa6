"""How do many runs compare on a W&B server? A workspace: curves over tokens and context, and final results by position.

    python -m experiments.dashboard dry_run=true
    python -m experiments.dashboard tags=[convergence]
    python -m experiments.dashboard entity=me by=[position.name,frequencies.base]

It shows the runs of a project, or those with certain tags, such as a claim's. Each call saves a new view and prints its
address.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from conf.base import BadInput, Project, Settings, Tags, Words, first_line, nearest
from conf.compose import command_line
from conf.overrides import known_settings
from conf.validation import validate

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

TRAINING = ("validation/perplexity", "validation/nll", "train/loss", "train/gradient_norm", "speed/tokens_per_second")
CONTEXT = ("context/perplexity", "context/nll", "context/nll_by_position", "context/effective")
FINAL = ("validation/nll", "validation/perplexity", "validation/bits_per_byte", "tokens", "speed/tokens_per_second")


class Request(Settings):
    """The settings of a workspace, as in conf/dashboard.yaml."""

    entity: str | None
    project: Project
    tags: Tags
    by: Annotated[Words, Field(min_length=1)]
    dry_run: bool


def workspace(request: Request, entity: str) -> "Workspace":
    """Build the workspace as an object of wandb-workspaces, which contacts no server until it is saved."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    grouping = {"groupby": panels.Config(request.by[0]), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}

    def curve(metric: str, x: str):
        log = metric.endswith("perplexity")
        log_x = x == "context/length"
        return panels.LinePlot(title=metric, x=x, y=[metric], log_x=log_x, log_y=log, title_x=x, max_runs_to_show=100)

    sections = [
        ws.Section(name="Training", panels=[curve(key, "tokens") for key in TRAINING], is_open=True),
        ws.Section(
            name="Perplexity against context", panels=[curve(key, "context/length") for key in CONTEXT], is_open=True
        ),
        ws.Section(
            name=f"By {request.by[0]}",
            panels=[
                *(
                    panels.BarPlot(title=f"final/{metric}", metrics=[f"final/{metric}"], **grouping)
                    for metric in FINAL[:3]
                ),
                panels.RunComparer(diff_only=True),
            ],
            is_open=True,
        ),
        ws.Section(
            name="At the end",
            panels=[
                panels.ScalarChart(title=f"final/{key}", metric=f"final/{key}", groupby_aggfunc="mean") for key in FINAL
            ],
        ),
    ]
    filters = ws.And(*(ws.Tags().isin([tag]) for tag in request.tags)) if request.tags else ""
    runs = ws.RunsetSettings(filters=filters, groupby=[ws.Config(key) for key in request.by])
    name = ", ".join(["Positions", *request.tags])
    settings = ws.WorkspaceSettings(x_axis="tokens", max_runs=100)
    return ws.Workspace(
        entity=entity, project=request.project, name=name, sections=sections, settings=settings, runset_settings=runs
    )


def outline(built: "Workspace") -> str:
    """Describe the contents of a workspace, one line each."""
    runs = built.runset_settings
    lines = [f"{built.name}: runs of {built.entity or '(the entity of the key)'}/{built.project}"]
    lines += [f"  where {runs.filters}"] if runs.filters else []
    lines += [f"  grouped by {', '.join(key.name for key in runs.groupby)}"]
    for section in built.sections:
        lines.append(f"{section.name}{'' if section.is_open else ' (closed)'}")
        for panel in section.panels:
            over = f" against {panel.x}" if hasattr(panel, "x") else ""
            lines.append(f"  {type(panel).__name__}: {getattr(panel, 'title', 'settings that differ')}{over}")
    return "\n".join(lines)


def run_command(values: dict, overrides: list[str]) -> None:
    """Save the workspace, or print what it would hold."""
    request = validate(Request, values)
    for key in request.by:
        if key not in (known := known_settings()):
            raise BadInput(f"by={key} is no setting of a run, such as position.name{nearest(key, known)}")
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise BadInput(f"{error.name} is missing: pip install -r requirements-dev.txt") from None
    if request.dry_run:
        print(outline(workspace(request, request.entity or "")))
        return
    try:
        built = workspace(request, request.entity or wandb.Api(timeout=20).default_entity or "")
        built.save()
    except (wandb.Error, ValueError, OSError) as error:
        raise BadInput(
            f"the workspace was not saved: {first_line(error)}; dry_run=true shows it without a server"
        ) from None
    print(f"{outline(built)}\n\nSaved: {built.url}")


if __name__ == "__main__":
    command_line("dashboard", run_command)
