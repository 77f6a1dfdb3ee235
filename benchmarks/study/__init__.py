"""A study of paths from a teacher to its students, with this project's stages (docs/study.md)."""
