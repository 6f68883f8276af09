"""What we ask for and what we hold it to: principles, concepts, prompts, guard and retriever."""
