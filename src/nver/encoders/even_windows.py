"""Where the windows of a long clip begin, for networks that hear a fixed duration.

A network of ten seconds hears nothing after them. A longer clip is heard whole: the fewest windows
that cover it, spread evenly from its first to its last sample, so that none holds padding and a
clip that grows by a little changes its vector by a little. Windows overlap as far as they must.
"""

from __future__ import annotations


def even_starts(length: int, window: int) -> list[int]:
    """Return where the fewest windows that cover a clip begin; 0 alone where one is enough.

    Parameters
    ----------
    length : int
        Of the clip, in samples or frames.
    window : int
        Length of a window in the same unit, at least 1.

    Examples
    --------
    >>> even_starts(900, 1000), even_starts(1001, 1000), even_starts(2500, 1000)
    ([0], [0, 1], [0, 750, 1500])
    """
    count = -(-length // window)
    if count < 2:
        return [0]
    return [index * (length - window) // (count - 1) for index in range(count)]
