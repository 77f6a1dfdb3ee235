"""Which path distils an encoder-decoder model: a study with this project's own stages on real text (docs/study.md)."""
