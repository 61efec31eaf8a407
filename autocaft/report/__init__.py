"""What a run shows: report.json, report.html and the table on the terminal, made from artifacts only."""
