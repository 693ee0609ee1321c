"""How sure a share of few answers is."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # 97.5 % of a normal distribution lie below


def wilson(count: int, n: int, *, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share: unlike count / n +- z s it stays within 0 and 1, and holds for small n.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        count: Of `n` that are so.
        z: Of the normal distribution. Default: 95 %.

    Returns:
        The lower and upper end; (0, 1) where `n` is 0.
    """
    if n == 0:
        return 0.0, 1.0
    share = count / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # at the ends the two terms are equal, but for rounding
    return (0.0 if count == 0 else centre - half), (1.0 if count == n else centre + half)
