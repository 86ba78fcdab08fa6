"""What the gallery draws, and where."""

from typing import Annotated

from pydantic import Field

from conf.base import Listed, Settings


class Gallery(Settings):
    """What is drawn, and where, as in conf/figures.yaml."""

    only: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, Listed]
    folder: str
    checkpoint: str | None
    runs: str
    cache: str
