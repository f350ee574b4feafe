"""Readers: PP-OCR and TrOCR families behind one contract, `reader.Reader`."""

from transformers.utils import logging

logging.disable_progress_bar()
