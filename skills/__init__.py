"""What a question needs and who has it: questions, annotation, embedding, matching, profiles. No I/O of its own."""
