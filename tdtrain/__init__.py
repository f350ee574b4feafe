"""tdtrain: small, fast readers of timetables, distilled from large ones on Ray."""

__version__ = "0.1.0"
