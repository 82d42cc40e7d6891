"""Sizes that rows and batches are filled up to, few enough that little is compiled."""


def power_of_two(count: int, least: int = 1) -> int:
    """Up to `least` times a power of two."""
    while least < count:
        least *= 2
    return least


def half_power_of_two(count: int, least: int, most: int) -> int:
    """Up to `least` times a power of two, or half as much more; at most `most`."""
    size = power_of_two(count, least)
    return min(3 * size // 4 if size > least and 3 * size // 4 >= count else size, most)
