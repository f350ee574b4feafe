"""Models that read lines and that write documents."""
