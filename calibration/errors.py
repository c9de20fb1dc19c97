"""Errors that a user can act on. The command line turns each into one sentence and exit code 1."""


class LimpqError(Exception):
    """What was found, what was expected and what to do next, in one sentence."""


class DataError(LimpqError):
    """A data set, an image or a class mapping is not what it should be."""


class RecordError(LimpqError):
    """A JSON record is missing, damaged, or of another format."""


class ModelError(LimpqError):
    """A model, its weights or a layer cannot be handled."""


class SettingError(LimpqError):
    """An option has a value that makes no sense, alone or beside another one."""


class MissingExtra(LimpqError):
    """An optional dependency is not installed; the sentence names the extra that brings it."""


class InfeasiblePolicy(LimpqError):
    """No assignment of bit-widths meets the budgets; the sentence names the smallest reachable figure."""


class PolicyNotFound(InfeasiblePolicy):
    """A search was stopped before it found an assignment that meets the budgets, or showed that there is none."""


class RuntimeUnavailable(LimpqError):
    """An inference runtime or its device cannot be used here."""


class OutputError(LimpqError):
    """An output folder cannot be written, or another build is using it."""


class CacheRefused(LimpqError):
    """A cache, or a file in it, may be somebody else's, or is not what was kept there: it is not used."""
