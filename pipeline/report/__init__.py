"""The report over a run: what its stages left on disk, as report.json, report.md and a page that opens offline.

Data flows one way: `collect` reads the run into a `document`, which `tables` and `charts` lay out for `markdown` and `page`.
"""
