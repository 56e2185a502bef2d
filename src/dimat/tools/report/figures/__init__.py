"""Values in, figures out: plain values that plotly draws. No file is read and no page is known."""
