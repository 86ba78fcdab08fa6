"""Small YAML files that people write or searches leave: lists of frequencies, mappings with factors."""

from pathlib import Path

import yaml

LONGEST = 2**17  # bytes: thousands of numbers, and read in a moment


class _WithoutAliases(yaml.SafeLoader):
    """YAML whose size is that of its text: a few lines of aliases can stand for gigabytes."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def read_yaml(path: str):
    """Read a YAML file into plain values.

    Raises:
        ValueError: it cannot be read, is too long, or is no YAML; the message is one sentence.
    """
    place = Path(path).expanduser()
    try:
        if place.exists() and not place.is_file():
            raise ValueError(f"path={path} is not a file")
        with open(place, "rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise ValueError(f"path={path} is longer than {LONGEST:,} bytes, more than any list of numbers needs")
        return yaml.load(content.decode("utf-8"), _WithoutAliases)
    except OSError as error:
        raise ValueError(f"path={path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"path={path} is no plain YAML") from None
