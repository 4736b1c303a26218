"""Reports, as objects, JSON, tables and pages."""
