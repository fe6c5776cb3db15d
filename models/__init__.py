"""The model repository and the contract that every model in it keeps."""
