"""s3prl's pretrain folder: what makes and reads training data, and the runners that train on it."""
