"""Which tests follow each other on one worker, and so share what takes long to make."""

from xdist.scheduler import LoadScopeScheduling

# In them, the tests of one class share what was compiled and trained for it.
BY_CLASS = ("tests/conformance/attacks_test.py", "tests/conformance/objectives_test.py")


def group_of(nodeid):
    """Returns the group of a test: its file, and in the files `BY_CLASS` its first parameter."""
    path, _, name = nodeid.partition("::")
    _, _, parameters = name.partition("[")
    if path in BY_CLASS and parameters:
        return f"{path}::{parameters.rstrip(']').split('-')[0]}"
    return path


def sort(items):
    """Puts the tests of each group next to each other, and changes nothing else in their order."""
    place = {}
    for item in items:
        place.setdefault(group_of(item.nodeid), len(place))
    items.sort(key=lambda item: place[group_of(item.nodeid)])


class Scheduler(LoadScopeScheduling):
    """Hands whole groups to the workers of pytest-xdist, the largest first."""

    def _split_scope(self, nodeid):
        return group_of(nodeid)
