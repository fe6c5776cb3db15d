"""The shelf of trained models and the contract that every model on it keeps."""
