//! Everything between the outside and the numbers: images, prompts, ids.
//!
//! Source: `SmolVLMProcessor`, `Idefics3Processor`, `Qwen2_5_VLProcessor` and `Qwen3VLProcessor` of transformers.
//! Invariant: holds no tensor; cheap to clone, `Send` and `Sync`. A question from outside cannot smuggle in a special
//! token, so a prompt has exactly the image tokens that its images ask for.
//! Deliberately absent: video, conversations of several turns.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::config::Family;
use super::{
    ChatTemplate, Config, Cut, ImageLimits, ImageProcessor, ModelError, Pixels, Tokenizer, Window, files,
};

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

/// Ids that end an answer at most; each generated token is compared with all.
const MOST_ENDS: usize = 64;
/// Visual tokens of a prompt at most, far beyond any context: the prompt is written out before it is measured.
const MOST_VISUAL: usize = 1 << 20;

const AROUND: &str = "<fake_token_around_image>";
const WHOLE: &str = "<global-img>";

/// The special tokens of a family.
struct Words {
    /// Stands for an image in the chat template, and for one visual token in the prompt.
    image: &'static str,
    /// Ends an utterance.
    end: &'static str,
    /// Others that a prompt needs.
    others: &'static [&'static str],
}

impl Family {
    fn words(self) -> Words {
        match self {
            Family::SmolVlm => {
                Words { image: "<image>", end: "<end_of_utterance>", others: &[AROUND, WHOLE] }
            }
            Family::Qwen2_5Vl | Family::Qwen3Vl => Words {
                image: "<|image_pad|>",
                end: "<|im_end|>",
                others: &["<|vision_start|>", "<|vision_end|>"],
            },
        }
    }
}

/// Image processor, tokenizer and chat template of one model folder.
#[derive(Debug, Clone)]
pub struct Processor {
    /// Bytes to pixels.
    pub image: ImageProcessor,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Question to prompt.
    pub chat: ChatTemplate,
    family: Family,
    /// Visual tokens of a tile; patches per visual token of a grid.
    per: usize,
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
        let mut found = Vec::new();
        for name in FILES.into_iter().chain([GENERATION]) {
            let path = dir.join(name);
            if let Some(bytes) = files::read_if_there(&path)? {
                found.push((name, bytes));
            }
        }
        let folder = Folder { dir, files: &found };
        let path = dir.join("tokenizer.json");
        let tokenizer = Tokenizer::open(&path)?;
        let cure = "use the tokenizer that belongs to this config.json";
        // Ids, not tokens: a vocabulary with gaps has fewer tokens than its last id says.
        if tokenizer.ids_end() > config.text.vocab_size {
            let what = format!("{} ids, config.json has {}", tokenizer.ids_end(), config.text.vocab_size);
            return Err(ModelError::folder(&path, what, cure));
        }
        let token = |content: &str| {
            tokenizer
                .id(content)
                .ok_or_else(|| ModelError::folder(&path, format!("no token '{content}'"), cure))
        };
        let words = config.family.words();
        if token(words.image)? != config.image_token_id {
            let what =
                format!("'{}' is not config.json's image_token_id {}", words.image, config.image_token_id);
            return Err(ModelError::folder(&path, what, cure));
        }
        for other in words.others {
            token(other)?;
        }
        let mut eos = vec![token(words.end)?];
        for id in folder.json(GENERATION)?.iter().flat_map(|json| ids(&json["eos_token_id"])) {
            if !eos.contains(&id) {
                eos.push(id);
            }
            if eos.len() > MOST_ENDS {
                let what = format!("eos_token_id lists more than {MOST_ENDS} ids");
                return Err(ModelError::folder(
                    &dir.join(GENERATION),
                    what,
                    "list the ids that end an answer",
                ));
            }
        }
        Ok(Self {
            image: folder.image_processor(config.family)?,
            chat: folder.chat_template()?,
            family: config.family,
            per: match config.siglip() {
                Some(v) => (v.patches_per_side() / config.scale_factor).pow(2) as usize,
                None => config.scale_factor.pow(2) as usize,
            },
            pad: config.pad_token_id.unwrap_or(eos[0]),
            eos: eos.into(),
            tokenizer,
            files: Arc::new(found),
        })
    }

    /// Decodes and prepares an image; see [`ImageProcessor::prepare`].
    pub fn decode(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Pixels, ModelError> {
        self.image.prepare(bytes, limits)
    }

    /// Decodes and prepares a part of an image; see [`ImageProcessor::prepare_window`].
    pub fn decode_window(
        &self,
        bytes: &[u8],
        window: Window,
        limits: &ImageLimits,
    ) -> Result<Pixels, ModelError> {
        self.image.prepare_window(bytes, window, limits)
    }

    /// Ids of the prompt for a question about images cut like this, image tokens expanded, up to where the assistant
    /// begins to speak.
    ///
    /// Errors: a special token written in the question; a template that leaves out an image.
    pub fn prompt_ids(&self, question: &str, cuts: &[Cut]) -> Result<Vec<i64>, ModelError> {
        self.check_plain(question)?;
        let visual = cuts.iter().map(|&cut| self.visual_tokens(cut)).fold(0, usize::saturating_add);
        if visual > MOST_VISUAL {
            let what = format!("the images make {visual} visual tokens, more than {MOST_VISUAL}");
            return Err(ModelError::text(what, "send fewer or smaller images"));
        }
        let prompt = self.chat.prompt(question, cuts.len())?;
        let mut parts = prompt.split(self.family.words().image);
        // A split gives at least one part.
        let mut text = parts.next().unwrap_or_default().to_owned();
        let mut cuts = cuts.iter();
        for part in parts {
            let Some(&cut) = cuts.next() else { return Err(miscounted()) };
            text.push_str(&self.image_text(cut));
            text.push_str(part);
        }
        match cuts.next() {
            None => self.tokenizer.ids(&text),
            Some(_) => Err(miscounted()),
        }
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

    /// Ids that end an answer: the end of an utterance first, then those of generation_config.json.
    pub fn eos_ids(&self) -> &[i64] {
        &self.eos
    }

    /// Id to pad with.
    pub fn pad_id(&self) -> i64 {
        self.pad
    }

    /// Visual tokens of an image cut like this.
    pub fn visual_tokens(&self, cut: Cut) -> usize {
        match cut {
            Cut::Tiles { .. } => cut.tiles().saturating_mul(self.per),
            Cut::Grid { rows, columns } => rows * columns / self.per,
        }
    }

    /// The text that stands for an image.
    fn image_text(&self, cut: Cut) -> String {
        let image = self.family.words().image;
        let (rows, columns) = match cut {
            // The chat template writes what stands around them.
            Cut::Grid { .. } => return image.repeat(self.visual_tokens(cut)),
            Cut::Tiles { rows, columns } => (rows, columns),
        };
        let tokens = image.repeat(self.per);
        let mut text = String::new();
        for row in 1..=rows {
            for column in 1..=columns {
                text.push_str(&format!("{AROUND}<row_{row}_col_{column}>{tokens}"));
            }
            text.push('\n');
        }
        if cut != Cut::WHOLE {
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

fn miscounted() -> ModelError {
    ModelError::text(
        "chat template: another number of images than were given",
        "use the model's own template",
    )
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
    fn image_processor(&self, family: Family) -> Result<ImageProcessor, ModelError> {
        let name = "preprocessor_config.json";
        if let Some(json) = self.json(name)? {
            return ImageProcessor::from_json(&self.dir.join(name), family, json);
        }
        match self.json("processor_config.json")?.map(|mut json| json["image_processor"].take()) {
            Some(json) if json.is_object() => {
                ImageProcessor::from_json(&self.dir.join("processor_config.json"), family, json)
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
        let cure = "add the model's own template as chat_template.json";
        Err(ModelError::folder(&self.dir.join("chat_template.json"), "the folder has no chat template", cure))
    }
}
