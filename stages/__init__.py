"""The pipeline: prepare, extract_features, train_head, finetune, evaluate; and get_data, which feeds it."""
