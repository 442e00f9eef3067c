"""`dhox drift`: field images without labels against an export: shift, estimated accuracy, images unlike any seen."""
