//! The chat template, rendered by minijinja as the reference renders it with Jinja.
//!
//! Invariant: a template that cannot be rendered is refused when the folder is opened; rendering is bounded in time and
//! memory by fuel, whatever the template says. Parsing and rendering have a thread of their own, because minijinja goes as
//! deep as a template does: its stack is sized for the longest template and the most fuel, and where a step of the
//! library itself takes no fuel (the length of a list added to itself thirty times), the thread is given up after a while.
//! A template that puts the question into a fixed frame, as all published ones do, is rendered once per number of images.
//! Deliberately absent: tools, documents, and `{% generation %}` blocks, which mark text and change none of it.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

use super::ModelError;

/// SmolVLM's own template.
pub const SMOLVLM_TEMPLATE: &str = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

const NAME: &str = "chat";
/// Steps of one rendering; every 64 bytes that it makes count as one too, so it makes 16 MiB at most. The published
/// templates take a few hundred.
const FUEL: u64 = 1 << 18;
/// Macros and includes inside each other at most.
const MOST_DEEP: usize = 64;
/// Bytes of a template at most; the longest published ones are a tenth of it.
const MOST_BYTES: usize = 1 << 16;
/// Stack of the thread; only what is used of it takes memory.
const STACK: usize = 256 << 20;
/// Numbers of images whose frames are kept.
const FRAMES: usize = 16;
/// Stands for the question while a frame is found.
const SOMETHING: &str = "\u{27e6}a question that nobody asks\u{27e7}";
/// Questions that a frame must hold for: spaces at either end, quotes, braces, other scripts, nothing.
const PROBES: [&str; 4] = [" two  spaces\n", "{{ 'a' }} & <b> \"c\"", "Gr\u{f6}\u{df}e \u{662f}", ""];
/// How long a thread is waited for. A template takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stands before a question and after it.
type Frame = (String, String);

/// A parsed chat template. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    /// By number of images: what stands before and after any question; none where that depends on the question.
    frames: Arc<[OnceLock<Option<Frame>>; FRAMES]>,
}

impl ChatTemplate {
    /// Parses a template and tries it on one question about one image.
    pub fn new(source: &str) -> Result<Self, ModelError> {
        if source.len() > MOST_BYTES {
            return Err(unusable(format!("it is longer than {MOST_BYTES} bytes")));
        }
        let mut environment = Environment::new();
        // As the reference sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(refuse)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MOST_DEEP);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let raise = |what: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        };
        environment.add_function("raise_exception", raise);
        let text = source.to_string();
        let environment =
            apart(move || environment.add_template_owned(NAME, text).map(|()| environment).map_err(refuse))?;
        let template =
            Self { environment: Arc::new(environment), source: source.into(), frames: Arc::default() };
        template.prompt("?", 1)?;
        Ok(template)
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// A user's question after `images` images, up to where the assistant begins to speak.
    pub fn prompt(&self, question: &str, images: usize) -> Result<String, ModelError> {
        let frame = self.frames.get(images).and_then(|slot| slot.get_or_init(|| self.frame(images)).as_ref());
        match frame {
            Some((before, after)) => Ok([before, question, after].concat()),
            None => self.rendered(question, images),
        }
    }

    /// What a template writes before and after the question, if that is the same for every question.
    fn frame(&self, images: usize) -> Option<Frame> {
        let text = self.rendered(SOMETHING, images).ok()?;
        let (before, after) = text.split_once(SOMETHING)?;
        let holds = |probe: &&str| {
            self.rendered(probe, images).is_ok_and(|text| text == [before, probe, after].concat())
        };
        PROBES.iter().all(holds).then(|| (before.to_owned(), after.to_owned()))
    }

    fn rendered(&self, question: &str, images: usize) -> Result<String, ModelError> {
        let mut content = vec![serde_json::json!({"type": "image"}); images];
        content.push(serde_json::json!({"type": "text", "text": question}));
        self.render(&serde_json::json!([{"role": "user", "content": content}]), true)
    }

    /// Any conversation, in the reference's message format.
    pub fn render(&self, messages: &Value, add_generation_prompt: bool) -> Result<String, ModelError> {
        let (environment, messages) = (self.environment.clone(), messages.clone());
        apart(move || {
            let template = environment.get_template(NAME).map_err(refuse)?;
            template.render(context! { messages => Serde(&messages), add_generation_prompt }).map_err(refuse)
        })
    }
}

fn refuse(error: minijinja::Error) -> ModelError {
    unusable(error.to_string())
}

fn unusable(what: String) -> ModelError {
    ModelError::text(format!("chat template: {what}"), "use the model's own template")
}

/// Runs on a thread with a deep stack; gives it up when it takes too long.
fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ModelError> + Send + 'static,
) -> Result<T, ModelError> {
    let (done, result) = sync_channel(1);
    // Nobody listens to what comes too late.
    let work = move || drop(done.send(work()));
    std::thread::Builder::new()
        .name("chat template".into())
        .stack_size(STACK)
        .spawn(work)
        .map_err(|e| ModelError::text(format!("chat template: no thread: {e}"), "free some memory"))?;
    match result.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(unusable(format!("it takes longer than {PATIENCE:?}"))),
        Err(RecvTimeoutError::Disconnected) => Err(unusable("the library cannot render it".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_own_template_gives_the_agreed_prompt() {
        let prompt =
            ChatTemplate::new(SMOLVLM_TEMPLATE).expect("parses").prompt("How many?", 1).expect("renders");
        assert_eq!(prompt, "<|im_start|>User:<image>How many?<end_of_utterance>\nAssistant:");
    }

    #[test]
    fn a_template_that_looks_into_the_question_is_rendered_for_each() {
        let template = ChatTemplate::new("{{ messages[0]['content'][-1]['text'] | trim }}!").expect("parses");
        assert_eq!(template.frame(1), None);
        assert_eq!(template.prompt(" How many? ", 1).expect("renders"), "How many?!");
        let plain = ChatTemplate::new(SMOLVLM_TEMPLATE).expect("parses");
        assert!(plain.frame(2).is_some_and(|(before, _)| before.ends_with("<image><image>")));
        let rendered = plain.rendered(" How many? ", 2).expect("renders");
        assert_eq!(plain.prompt(" How many? ", 2).expect("framed"), rendered);
    }

    #[test]
    fn a_template_that_raises_is_refused_at_once() {
        let error = ChatTemplate::new("{{ raise_exception('no system role') }}").expect_err("refused");
        assert!(error.to_string().contains("no system role"), "{error}");
    }
}
