"""One tree of errors. Each message gives the value, the rule and the remedy; the command line prints it and exits with 2.

DunwuError
├── RecipeError        the recipe, an override or a command-line value
├── DataError          a document, an instruction file or a corpus
├── TokenizerError     a vocabulary or a chat template
├── ModelError         a model's configuration or its weights
├── CheckpointError    a checkpoint that cannot be used
├── BuildError         a stage, its lock or its folder
├── DiskError          a full disk or a folder that cannot be written
├── TrainingError      a run that diverged past rescue
├── BusyError          more requests than may wait; the same one may be answered later
├── PartnerError       a partner in a conversation that did not answer
├── BudgetError        money that is spent
├── PromptError        a template, a chain, or what it is given
└── MissingExtraError  an optional dependency that is not installed
"""


class DunwuError(Exception):
    """Base of all errors that a user can mend."""


class RecipeError(DunwuError):
    """The recipe, an override or a command-line value is not acceptable."""


class DataError(DunwuError):
    """A document, an instruction file or a corpus cannot be used."""


class TokenizerError(DunwuError):
    """A vocabulary or a chat template cannot be used."""


class ModelError(DunwuError):
    """A model's configuration or weights cannot be used."""


class CheckpointError(DunwuError):
    """A checkpoint cannot be used."""


class BuildError(DunwuError):
    """A stage, its lock or its folder cannot be used."""


class DiskError(DunwuError):
    """The disk is full or a folder cannot be written."""


class TrainingError(DunwuError):
    """A run diverged past rescue."""


class BusyError(DunwuError):
    """More is asked than may wait."""


class PartnerError(DunwuError):
    """A partner in a conversation did not answer. `transient`: the same question may be answered later, or by another."""

    def __init__(self, message: str, *, transient: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.transient, self.retry_after_s = transient, retry_after_s


class BudgetError(DunwuError):
    """The money for a purpose is spent."""


class PromptError(DunwuError):
    """A template or a chain cannot be used, or not with what it is given."""


class MissingExtraError(DunwuError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; pip install 'dunwu[{extra}]'"
        )
