"""Errors that are the caller's to mend: each says what was found, where, and what to do."""


class MvSam3dError(Exception):
    """Anything wrong with the input; the message is written for the person who gave it."""


class BadPhoto(MvSam3dError):
    """A photo or its mask cannot be used."""


class BadScene(MvSam3dError):
    """A folder does not hold the photos and masks of one object."""


class BadFile(MvSam3dError):
    """A file (PLY, GLB, npz, cameras, ...) is broken, hostile or of the wrong kind."""


class CheckpointMismatch(MvSam3dError):
    """A checkpoint does not fit the networks it was given for."""


class InvalidOption(MvSam3dError):
    """An option is outside its range or clashes with another."""


class MissingExtra(MvSam3dError):
    """A feature needs a package that a plain install leaves out."""


class NothingFound(MvSam3dError):
    """The model finds no object in the photos."""


class NoCameras(MvSam3dError):
    """The photos do not tell where they were taken from."""


class ObjectsFailed(MvSam3dError):
    """Of several objects, those named could not be reconstructed."""


class NotReady(MvSam3dError):
    """This machine lacks something that a run needs."""
