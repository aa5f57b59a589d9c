"""What property tests feed: JSON of any shape, objects with some of their fields, streams cut anywhere."""

import itertools

from hypothesis import strategies as st


def json_values(scalars, names, most=4, leaves=10):
    """Scalars of this kind in lists of up to `most`, and in objects with these names."""
    return st.recursive(
        st.none() | st.booleans() | scalars,
        lambda inner: st.lists(inner, max_size=most) | st.dictionaries(names, inner, max_size=most),
        max_leaves=leaves,
    )


def some_of(**fields):
    """An object that has some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def in_packets(stream, cuts):
    """A stream as it may arrive: cut at these places, where it is long enough."""
    at = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[low:high] for low, high in itertools.pairwise(at) if high > low]
