"""The automatic fit on twelve tables, beside other density estimators."""
