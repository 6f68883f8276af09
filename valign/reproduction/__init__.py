"""The papers' tables, made on the miniature."""
