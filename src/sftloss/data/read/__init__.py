"""Files, folders, saved and hub data sets to raw rows, with an account of the rows that cannot be used."""
