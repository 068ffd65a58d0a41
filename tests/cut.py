"""A run that breaks off."""

from dunwu.train.signals import Interrupted


class Cut:
    """A stream that breaks off at a row, where a signal would."""

    def __init__(self, stream, row):
        self.stream, self.row = stream, row
        self.context_length, self.rows_per_epoch = stream.context_length, stream.rows_per_epoch
        self.fingerprint = stream.fingerprint

    def batch(self, first_row, rows):
        if first_row >= self.row:
            raise Interrupted("cut", 143)
        return self.stream.batch(first_row, rows)
