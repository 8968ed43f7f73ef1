"""Errors whose message is written for the user: what was wrong, what was found, what to do."""


class UnlearnError(Exception):
    """Base of every error that the engine raises on purpose."""


class BadSettings(UnlearnError):
    """A setting lies outside its bounds, or two settings contradict each other."""


class BadConcept(UnlearnError):
    """The concept to forget, its stand-in, its keep list or its pictures can't be used."""


class WrongModel(UnlearnError):
    """The lent model is not a Stable Diffusion v2 model that this engine can work on."""


class BadFile(UnlearnError):
    """A file can't be read or written: missing, truncated, of the wrong format, or refused."""


class TrainingFailed(UnlearnError):
    """The optimisation did not give a usable result, for example a loss that is not a number."""


class NotEnoughMemory(UnlearnError):
    """A run would not fit into the memory that is free; nothing was begun."""


class MissingPackage(UnlearnError):
    """A package that the engine needs is not installed, or can't be imported."""


class Cancelled(UnlearnError):
    """The user stopped the run; nothing was changed or written."""
