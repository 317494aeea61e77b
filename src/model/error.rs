//! What can be wrong with a model folder, a prompt or an image.
//!
//! Invariant: every message names the file or tensor, what is wrong with it, and the cure.
//! Deliberately absent: torch's own errors, which are programming errors here and panic (the engine catches them).

use std::path::{Path, PathBuf};

/// An error of the model layer.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the folder cannot be read or written.
    #[error("{}: {source}; check that the model folder is complete and that this user may read and write it", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of the folder has contents that this build cannot use.
    #[error("{}: {what}; {cure}", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        cure: String,
    },
    /// config.json names an architecture that is not built in.
    #[error(
        "model_type '{found}' is not supported; this build runs the model types 'smolvlm', 'idefics3', 'qwen2_5_vl' and 'qwen3_vl'"
    )]
    UnsupportedModel {
        /// The model_type found.
        found: String,
    },
    /// The weights lack a tensor that the configuration needs.
    #[error("{}: tensor '{name}' is missing; the weights do not belong to this config.json", path.display())]
    MissingTensor {
        /// The weights file or folder.
        path: PathBuf,
        /// The tensor's reference name.
        name: String,
    },
    /// The weights hold a tensor that the configuration does not know.
    #[error("{}: tensor '{name}' is not part of this architecture; the weights do not belong to this config.json", path.display())]
    SurplusTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
    },
    /// A tensor's shape differs from what the configuration says.
    #[error("{}: tensor '{name}' has shape {found:?}, config.json asks for {expected:?}", path.display())]
    Shape {
        /// The weights file.
        path: PathBuf,
        /// The tensor's reference name.
        name: String,
        /// The shape that the configuration gives.
        expected: Vec<i64>,
        /// The shape in the file.
        found: Vec<i64>,
    },
    /// The bytes are not an image that can be used.
    #[error("image: {what}; {cure}")]
    Image {
        /// What is wrong.
        what: String,
        /// What to do about it.
        cure: String,
    },
    /// A text cannot be turned into token ids or back.
    #[error("text: {what}; {cure}")]
    Text {
        /// What is wrong.
        what: String,
        /// What to do about it.
        cure: String,
    },
    /// The prompt has another number of image tokens than there are visual tokens.
    #[error(
        "the prompt has {wanted} image tokens but {given} visual tokens were given; pass every image's pixels with the prompt made for its cut"
    )]
    VisualTokens {
        /// Image tokens in the prompt.
        wanted: i64,
        /// Visual tokens given.
        given: i64,
    },
    /// A snapshot or an adapter does not fit this base model.
    #[error("adapter: {what}; {cure}")]
    Adapter {
        /// What is wrong.
        what: String,
        /// What to do about it.
        cure: String,
    },
}

impl ModelError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ModelError {
        let path = path.to_path_buf();
        move |source| ModelError::Io { path, source }
    }

    pub(crate) fn folder(path: &Path, what: impl ToString, cure: &str) -> ModelError {
        ModelError::Folder { path: path.to_path_buf(), what: what.to_string(), cure: cure.to_string() }
    }

    pub(crate) fn image(what: impl ToString, cure: &str) -> ModelError {
        ModelError::Image { what: what.to_string(), cure: cure.to_string() }
    }

    pub(crate) fn text(what: impl ToString, cure: &str) -> ModelError {
        ModelError::Text { what: what.to_string(), cure: cure.to_string() }
    }

    pub(crate) fn adapter(what: impl ToString, cure: &str) -> ModelError {
        ModelError::Adapter { what: what.to_string(), cure: cure.to_string() }
    }
}
