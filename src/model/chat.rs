//! The chat template, rendered by minijinja as the reference renders it with Jinja.
//!
//! Invariant: a template that cannot be rendered is refused when the folder is opened.
//! Deliberately absent: tools, documents, and `{% generation %}` blocks, which mark text and change none of it.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

use super::ModelError;

/// SmolVLM's own template.
pub const SMOLVLM_TEMPLATE: &str = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

const NAME: &str = "chat";

/// A parsed chat template. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
}

impl ChatTemplate {
    /// Parses a template and tries it on one question about one image.
    pub fn new(source: &str) -> Result<Self, ModelError> {
        let mut environment = Environment::new();
        // As the reference sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(refuse)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let raise = |what: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        };
        environment.add_function("raise_exception", raise);
        environment.add_template_owned(NAME, source.to_string()).map_err(refuse)?;
        let template = Self { environment: Arc::new(environment), source: source.into() };
        template.prompt("?", 1)?;
        Ok(template)
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// A user's question after `images` images, up to where the assistant begins to speak.
    pub fn prompt(&self, question: &str, images: usize) -> Result<String, ModelError> {
        let mut content = vec![serde_json::json!({"type": "image"}); images];
        content.push(serde_json::json!({"type": "text", "text": question}));
        self.render(&serde_json::json!([{"role": "user", "content": content}]), true)
    }

    /// Any conversation, in the reference's message format.
    pub fn render(&self, messages: &Value, add_generation_prompt: bool) -> Result<String, ModelError> {
        let template = self.environment.get_template(NAME).map_err(refuse)?;
        template.render(context! { messages => Serde(messages), add_generation_prompt }).map_err(refuse)
    }
}

fn refuse(error: minijinja::Error) -> ModelError {
    ModelError::text(format!("chat template: {error}"), "use the model's own template")
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
    fn a_template_that_raises_is_refused_at_once() {
        let error = ChatTemplate::new("{{ raise_exception('no system role') }}").expect_err("refused");
        assert!(error.to_string().contains("no system role"), "{error}");
    }
}
