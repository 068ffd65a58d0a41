"""How an experiment looks: as a page, and its figures as SVG.

`uplot/` holds uPlot 1.6.32 (MIT) as its npm package `uplot` has it: `dist/uPlot.iife.min.js`, `dist/uPlot.min.css` and its licence.
"""
