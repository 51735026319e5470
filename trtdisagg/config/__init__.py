"""The cluster file: what it may say (`schema`), how it is read (`load`), what TensorRT-LLM also says (`upstream`)."""
