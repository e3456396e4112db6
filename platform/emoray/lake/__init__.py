"""The lake: tables and documents on local disk or s3://, whole files only."""
