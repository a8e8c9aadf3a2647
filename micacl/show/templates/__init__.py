"Templates of the report and of tables."
