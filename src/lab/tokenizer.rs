//! The toy model's tokenizer and the other files of its Hugging Face folder that hold no weights.
//!
//! Invariant: byte-level BPE, so every UTF-8 text can be written and read back; digits, small numbers and the
//! answers are one token each with the space before them. Deliberately absent: encoding of prompts, which is
//! the model's processor.

use std::collections::HashMap;
use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel as Bytes;
use tokenizers::{AddedToken, Tokenizer};

use super::lesson::{Worlds, lesson};
use super::question::Family;
use super::render::LATTICE;
use super::{boards, question};

/// Tokens in the vocabulary, special ones included.
pub const VOCABULARY: usize = 640;
/// Padding; the first special token, id 0.
pub const PAD: &str = "<|endoftext|>";
/// The special tokens, ids 0 to 5, those of SmolVLM.
pub const SPECIAL: [&str; 6] =
    [PAD, "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"];

const CHAT_TEMPLATE: &str = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/// Words that have to be one token (with the space before them): numbers, answers, what cells show.
pub fn whole_words() -> Vec<String> {
    let numbers = (0..=27).map(|n: usize| n.to_string());
    let answers = ["yes", "no", "even", "odd"].into_iter().chain(boards::words()).map(str::to_owned);
    numbers.chain(answers).collect()
}

/// Trains the tokenizer on generated text of both worlds; the same text on every machine.
///
/// # Errors
/// When the trainer fails, or a word of [`whole_words`] did not become one token.
pub fn train(seed: u64) -> tokenizers::Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(Bytes::new(false, true, true)))
        .with_decoder(Some(ByteLevel::default()));
    let special: Vec<AddedToken> = SPECIAL.iter().map(|token| AddedToken::from(*token, true)).collect();
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCABULARY)
        .show_progress(false)
        .initial_alphabet(Bytes::alphabet().into_iter().collect())
        .special_tokens(special.clone())
        .build();
    let mut trainer: TrainerWrapper = trainer.into();
    tokenizer.train(&mut trainer, corpus(seed).into_iter())?;
    tokenizer.add_special_tokens(special)?;
    for word in whole_words() {
        let encoding = tokenizer.encode(format!(" {word}"), false)?;
        if encoding.len() != 1 {
            return Err(format!("` {word}` became {:?}: raise VOCABULARY", encoding.get_tokens()).into());
        }
    }
    Ok(tokenizer)
}

/// Lines of questions and replies, with the whole words often enough to be merged.
fn corpus(seed: u64) -> Vec<String> {
    let worlds = Worlds::new(seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut lines = Vec::new();
    for _ in 0..400 {
        let lesson = lesson(&worlds, LATTICE, &mut rng);
        for turn in &lesson.turns {
            let (steps, answer) = turn.reply();
            lines.push(format!("{}{steps}{answer}", turn.question));
        }
    }
    // Also the wording of what labels teach: a tokenizer meets all words of its language.
    for turn in 0..300 {
        let family = Family::ALL[turn % Family::ALL.len()];
        let (grid, target) = question::grid_for(family, 3, 3, &mut rng);
        let posed = question::pose(family, &grid, target, &mut rng);
        lines.push(format!("{} {} Answer: {}", posed.question, posed.reasoning.join(" "), posed.answer));
    }
    let words: String = whole_words().iter().map(|word| format!(" {word}")).collect();
    lines.extend(std::iter::repeat_n(words, 400));
    lines
}

/// Writes tokenizer, chat template and processor settings into `folder`.
///
/// # Errors
/// When a file cannot be written.
pub fn write_folder(tokenizer: &Tokenizer, folder: &Path) -> tokenizers::Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("tokenizer.json");
    tokenizer.save(&path, true).map_err(|error| format!("{}: {error}", path.display()))?;
    let named = json!({
        "bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": PAD, "unk_token": PAD,
    });
    let mut config = named.clone();
    let added: HashMap<String, serde_json::Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, token)| {
            let entry = json!({"content": token, "lstrip": false, "normalized": false, "rstrip": false,
                "single_word": false, "special": true});
            (id.to_string(), entry)
        })
        .collect();
    let added: std::collections::BTreeMap<_, _> = added.into_iter().collect();
    config["added_tokens_decoder"] = json!(added);
    config["tokenizer_class"] = json!("GPT2Tokenizer");
    config["processor_class"] = json!("SmolVLMProcessor");
    config["chat_template"] = json!(CHAT_TEMPLATE);
    config["model_max_length"] = json!(512);
    config["clean_up_tokenization_spaces"] = json!(false);
    config["add_prefix_space"] = json!(false);
    let image = json!({
        "image_processor_type": "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor",
        "do_convert_rgb": true, "do_resize": true, "size": {"longest_edge": 64}, "resample": 1,
        "do_image_splitting": false, "max_image_size": {"longest_edge": 64}, "do_rescale": true,
        "rescale_factor": 1.0 / 255.0, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "do_pad": true,
    });
    let write = |name: &str, value: &serde_json::Value| -> tokenizers::Result<()> {
        std::fs::write(folder.join(name), format!("{}\n", serde_json::to_string_pretty(value)?))?;
        Ok(())
    };
    write("tokenizer_config.json", &config)?;
    write("special_tokens_map.json", &named)?;
    write("preprocessor_config.json", &image)?;
    write("processor_config.json", &json!({"processor_class": "SmolVLMProcessor", "image_seq_len": 16}))?;
    write("chat_template.json", &json!({"chat_template": CHAT_TEMPLATE}))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| train(0).unwrap());

    #[test]
    fn special_tokens_have_the_first_ids() {
        for (id, token) in SPECIAL.iter().enumerate() {
            assert_eq!(TOKENIZER.token_to_id(token), Some(id as u32));
        }
        assert!(TOKENIZER.get_vocab_size(true) <= VOCABULARY);
    }

    #[test]
    fn training_twice_gives_the_same_tokenizer() {
        assert_eq!(TOKENIZER.to_string(false).unwrap(), train(0).unwrap().to_string(false).unwrap());
    }

    proptest! {
        #[test]
        fn any_text_survives_the_round_trip(text in "\\PC{0,40}") {
            let ids = TOKENIZER.encode(text.as_str(), false).unwrap().get_ids().to_vec();
            prop_assert_eq!(TOKENIZER.decode(&ids, false).unwrap(), text);
        }
    }
}
