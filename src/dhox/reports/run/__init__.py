"""What a run shows: report.html and its charts."""
