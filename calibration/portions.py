"""Named things, a portion at a time."""

from collections.abc import Iterator, Mapping


def portions(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Names in their order, together of at most the size ``most``; one that is larger stands alone."""
    names, size = list[str](), 0
    for name, more in sizes.items():
        if names and size + more > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    if names:
        yield names
