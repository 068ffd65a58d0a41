"""How an experiment looks: as a page, and its figures as SVG."""
