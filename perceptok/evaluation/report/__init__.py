"""The one HTML page of the house: tables, figures and cases to step through, in a single file."""
