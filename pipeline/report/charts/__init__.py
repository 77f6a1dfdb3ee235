"""The report's charts: lists of small SVG panels, drawn by hand (docs/adr/0010-report-charts.md).

- scores.py: retention, and quality against size and speed.
- curves.py: losses and validation scores by step.
- series.py: the colour and marker of each name.
- panel.py: one panel with two axes; bars.py: one panel of bars.
- axis.py: ranges and ticks; layout.py: places for marks and names; marker.py, frame.py: shared SVG.
"""
