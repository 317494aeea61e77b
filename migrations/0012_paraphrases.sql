-- Other wordings of a question, for the doubt that lies in the wording: the model is asked them, people are not.
ALTER TABLE samples ADD COLUMN paraphrases text[] NOT NULL DEFAULT '{}';
