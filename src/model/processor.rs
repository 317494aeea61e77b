//! Everything between the outside and the numbers: images, prompts, ids.
//!
//! Source: `SmolVLMProcessor` of transformers.
//! Invariant: holds no tensor; cheap to clone, `Send` and `Sync`. A question from outside cannot smuggle in a special
//! token, so a prompt has exactly the image tokens that its tiles ask for.
//! Deliberately absent: video, several images in one turn, conversations of several turns.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{ChatTemplate, Config, ImageLimits, ImageProcessor, ModelError, Pixels, Tiles, Tokenizer};

/// Files of a folder that belong to the processor and are copied when a model is saved.
const FILES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
const GENERATION: &str = "generation_config.json";

const IMAGE: &str = "<image>";
const AROUND: &str = "<fake_token_around_image>";
const WHOLE: &str = "<global-img>";
const END: &str = "<end_of_utterance>";

/// Image processor, tokenizer and chat template of one model folder.
#[derive(Debug, Clone)]
pub struct Processor {
    /// Bytes to pixels.
    pub image: ImageProcessor,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Question to prompt.
    pub chat: ChatTemplate,
    visual_tokens: usize,
    eos: Arc<[i64]>,
    pad: i64,
    files: Arc<Vec<(&'static str, Vec<u8>)>>,
}

impl Processor {
    /// Reads the processor's files of a model folder.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        Self::with_config(dir, &Config::open(&dir.join("config.json"))?)
    }

    pub(crate) fn with_config(dir: &Path, config: &Config) -> Result<Self, ModelError> {
        let mut files = Vec::new();
        for name in FILES.into_iter().chain([GENERATION]) {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => files.push((name, bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(ModelError::io(&path)(e)),
            }
        }
        let folder = Folder { dir, files: &files };
        let path = dir.join("tokenizer.json");
        let tokenizer = Tokenizer::open(&path)?;
        let cure = "use the tokenizer that belongs to this config.json";
        if tokenizer.vocab_size() as i64 > config.text.vocab_size {
            let what =
                format!("{} tokens, config.json has {}", tokenizer.vocab_size(), config.text.vocab_size);
            return Err(ModelError::folder(&path, what, cure));
        }
        let token = |content: &str| {
            tokenizer
                .id(content)
                .ok_or_else(|| ModelError::folder(&path, format!("no token '{content}'"), cure))
        };
        if token(IMAGE)? != config.image_token_id {
            let what = format!("'{IMAGE}' is not config.json's image_token_id {}", config.image_token_id);
            return Err(ModelError::folder(&path, what, cure));
        }
        token(AROUND)?;
        token(WHOLE)?;
        let mut eos = vec![token(END)?];
        for id in folder.json(GENERATION)?.iter().flat_map(|json| ids(&json["eos_token_id"])) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        Ok(Self {
            image: folder.image_processor()?,
            chat: folder.chat_template()?,
            visual_tokens: config.visual_tokens() as usize,
            pad: config.pad_token_id.unwrap_or(eos[0]),
            eos: eos.into(),
            tokenizer,
            files: Arc::new(files),
        })
    }

    /// Decodes and prepares an image; see [`ImageProcessor::prepare`].
    pub fn decode(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Pixels, ModelError> {
        self.image.prepare(bytes, limits)
    }

    /// Ids of the prompt for a question about one image, image tokens expanded, ending after `Assistant:`.
    ///
    /// Errors: a special token written in the question.
    pub fn prompt_ids(&self, question: &str, tiles: Tiles) -> Result<Vec<i64>, ModelError> {
        self.check_plain(question)?;
        let prompt = self.chat.prompt(question, 1)?;
        self.tokenizer.ids(&prompt.replacen(IMAGE, &self.image_text(tiles), 1))
    }

    /// Ids of a text as it stands: nothing added, special tokens in the text recognised.
    ///
    /// Text from outside is checked with [`Processor::check_plain`] first.
    pub fn text_ids(&self, text: &str) -> Result<Vec<i64>, ModelError> {
        self.tokenizer.ids(text)
    }

    /// Text of ids, special tokens left out.
    pub fn decode_ids(&self, ids: &[i64]) -> Result<String, ModelError> {
        self.tokenizer.text(ids)
    }

    /// Errors when a text from outside contains a special token.
    pub fn check_plain(&self, text: &str) -> Result<(), ModelError> {
        match self.tokenizer.special_in(text) {
            Some(token) => {
                let what = format!("it contains the special token '{token}'");
                Err(ModelError::text(what, "write the text without it"))
            }
            None => Ok(()),
        }
    }

    /// Ids that end an answer: `<end_of_utterance>` first, then those of generation_config.json.
    pub fn eos_ids(&self) -> &[i64] {
        &self.eos
    }

    /// Id to pad with.
    pub fn pad_id(&self) -> i64 {
        self.pad
    }

    /// Visual tokens per tile.
    pub fn visual_tokens(&self) -> usize {
        self.visual_tokens
    }

    /// The text that stands for an image's tiles.
    fn image_text(&self, tiles: Tiles) -> String {
        let tokens = IMAGE.repeat(self.visual_tokens);
        let mut text = String::new();
        for row in 1..=tiles.rows {
            for column in 1..=tiles.columns {
                text.push_str(&format!("{AROUND}<row_{row}_col_{column}>{tokens}"));
            }
            text.push('\n');
        }
        if tiles != Tiles::WHOLE {
            text.push('\n');
        }
        text + AROUND + WHOLE + &tokens + AROUND
    }

    /// Writes the processor's files as they were read.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), ModelError> {
        for (name, bytes) in self.files.iter() {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(ModelError::io(&path))?;
        }
        Ok(())
    }
}

/// A token id or a list of them.
fn ids(json: &Value) -> Vec<i64> {
    match json.as_array() {
        Some(list) => list.iter().filter_map(Value::as_i64).collect(),
        None => json.as_i64().into_iter().collect(),
    }
}

struct Folder<'a> {
    dir: &'a Path,
    files: &'a [(&'static str, Vec<u8>)],
}

impl Folder<'_> {
    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(n, _)| *n == name).map(|(_, bytes)| bytes.as_slice())
    }

    fn json(&self, name: &str) -> Result<Option<Value>, ModelError> {
        let parse = |bytes| {
            serde_json::from_slice(bytes)
                .map_err(|e| ModelError::folder(&self.dir.join(name), e, "fetch the file again"))
        };
        self.bytes(name).map(parse).transpose()
    }

    /// preprocessor_config.json, or the same inside the newer processor_config.json.
    fn image_processor(&self) -> Result<ImageProcessor, ModelError> {
        let name = "preprocessor_config.json";
        if let Some(json) = self.json(name)? {
            return ImageProcessor::from_json(&self.dir.join(name), json);
        }
        match self.json("processor_config.json")?.map(|mut json| json["image_processor"].take()) {
            Some(json) if json.is_object() => {
                ImageProcessor::from_json(&self.dir.join("processor_config.json"), json)
            }
            _ => Err(ModelError::folder(
                &self.dir.join(name),
                "the file is missing",
                "fetch the whole model folder",
            )),
        }
    }

    /// chat_template.jinja, chat_template.json or the tokenizer's configuration: newest form first.
    fn chat_template(&self) -> Result<ChatTemplate, ModelError> {
        if let Some(bytes) = self.bytes("chat_template.jinja") {
            return ChatTemplate::new(&String::from_utf8_lossy(bytes));
        }
        for name in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
            if let Some(source) = self.json(name)?.as_ref().and_then(|json| json["chat_template"].as_str()) {
                return ChatTemplate::new(source);
            }
        }
        let cure = "add SmolVLM's template as chat_template.json";
        Err(ModelError::folder(&self.dir.join("chat_template.json"), "the folder has no chat template", cure))
    }
}
