"""Long work: kept on disk, run one after the other, never lost."""
