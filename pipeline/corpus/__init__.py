"""Stage 1: text to tokenised, span-corrupted examples. Also the texts of the demo and the study.

job              the stage's settings and places, resolved from a recipe once (no torch)
tokens           what the stage left, as later stages open it (no torch)
source_identity  the hash of a source of text
build            both artifacts, with any number of processes
build_tokenizer  RUN/tokens/tokenizer
build_tokens     RUN/tokens/<split>
sources          rows of text files, parquet and `datasets` names
documents        documents of a corpus, whole or one split of it
splits           the split that a key belongs to
tokenizer        a SentencePiece model trained, wrapped for Transformers, loaded
encoding         texts to token ids
packing          documents to blocks and chunks of equal length
lengths          how an example's tokens are divided (no numpy)
corruption       span corruption of chunks
packages         texts from archives of PyPI and Debian, by pinned hash
wiki             introductions of Wikipedia articles: the demo's text
reviews          snippets of film reviews for two tasks
"""
