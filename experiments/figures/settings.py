"""The settings of the gallery."""

from typing import Annotated

from pydantic import Field

from conf.base import Listed, PathText, Settings


class Gallery(Settings):
    """The figures to draw and their folder, as in conf/figures.yaml."""

    only: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, Listed]
    folder: PathText
    checkpoint: PathText | None
    runs: PathText
    cache: PathText
