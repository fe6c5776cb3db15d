"""Losses: functions of `keras.ops` tensors that return one number a batch."""
